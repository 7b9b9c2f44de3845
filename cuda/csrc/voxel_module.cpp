// Python binding of the voxelisers; voxelization/__init__.py checks what comes in.
#include <pybind11/pybind11.h>

#include "voxelize.h"

namespace py = pybind11;

template <class T>
int64_t run(uintptr_t triangles, uintptr_t voxels, int64_t B, int64_t F, int n, int rule, int threads) {
  const nr::VoxelizeArguments arguments{B, F, n, static_cast<nr::VoxelRule>(rule),
                                        reinterpret_cast<uint8_t*>(voxels), threads};
  py::gil_scoped_release release;
  return nr::voxelize(arguments, reinterpret_cast<const T*>(triangles));
}

PYBIND11_MODULE(_kernels, module) {
  module.doc() = "Compiled voxelisers; use them through voxelization.";
  module.def("voxelize_float32", &run<float>);
  module.def("voxelize_float64", &run<double>);
}
