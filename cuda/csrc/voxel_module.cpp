// Python binding of the voxelisers; voxelization/__init__.py checks the arguments.
#include <pybind11/pybind11.h>

#include "voxelize.h"
#ifdef NR_WITH_CUDA
#include "voxelize_cuda.h"
#endif

namespace py = pybind11;

namespace {

nr::VoxelizeArguments arguments(uintptr_t voxels, int64_t B, int64_t F, int n, int rule, int threads) {
  return {B, F, n, static_cast<nr::VoxelRule>(rule), reinterpret_cast<uint8_t*>(voxels), threads};
}

template <class T>
int64_t run(uintptr_t triangles, uintptr_t voxels, int64_t B, int64_t F, int n, int rule, int threads) {
  py::gil_scoped_release release;
  return nr::voxelize(arguments(voxels, B, F, n, rule, threads), reinterpret_cast<const T*>(triangles));
}

nr::OverlapArguments pairs(uintptr_t a, uintptr_t b, int64_t B, int64_t cells, int64_t b_stride, uintptr_t counts,
                           int threads) {
  return {B, cells, reinterpret_cast<const uint8_t*>(a), reinterpret_cast<const uint8_t*>(b), b_stride,
          reinterpret_cast<int64_t*>(counts), threads};
}

void overlap(uintptr_t a, uintptr_t b, int64_t B, int64_t cells, int64_t b_stride, uintptr_t counts, int threads) {
  py::gil_scoped_release release;
  nr::overlap(pairs(a, b, B, cells, b_stride, counts, threads));
}

#ifdef NR_WITH_CUDA
void overlap_cuda(int device, uintptr_t stream, uintptr_t a, uintptr_t b, int64_t B, int64_t cells, int64_t b_stride,
                  uintptr_t counts) {
  nr::overlap_cuda(device, reinterpret_cast<void*>(stream), pairs(a, b, B, cells, b_stride, counts, 0));
}

template <class T>
void run_cuda(int device, uintptr_t stream, uintptr_t triangles, uintptr_t voxels, int64_t B, int64_t F,
              int n, uintptr_t workspace, uintptr_t first_bad) {
  nr::voxelize_cuda(device, reinterpret_cast<void*>(stream), arguments(voxels, B, F, n, 0, 0),
                    reinterpret_cast<const T*>(triangles), reinterpret_cast<void*>(workspace),
                    reinterpret_cast<long long*>(first_bad));
}
#endif

}  // namespace

PYBIND11_MODULE(_kernels, module) {
  module.doc() = "Compiled voxelisers; use them through voxelization.";
  module.def("voxelize_float32", &run<float>);
  module.def("voxelize_float64", &run<double>);
  module.def("overlap", &overlap);
#ifdef NR_WITH_CUDA
  module.attr("cuda_architectures") = NR_WITH_CUDA;
  module.def("workspace", [](int64_t B, int n) { return nr::voxelize_workspace(arguments(0, B, 0, n, 0, 0)); });
  module.def("voxelize_cuda_float32", &run_cuda<float>);
  module.def("voxelize_cuda_float64", &run_cuda<double>);
  module.def("overlap_cuda", &overlap_cuda);
#else
  module.attr("cuda_architectures") = py::none();
#endif
}
