// Python binding of the rasteriser. Tensors arrive as addresses: Python (neural_renderer/ops.py)
// has checked shapes, types and contiguity, and keeps the tensors alive during the call.
#include <pybind11/pybind11.h>

#include "rasterize.h"

namespace py = pybind11;

namespace {

template <class T>
T* address(const py::dict& args, const char* name) {
  return args.contains(name) ? reinterpret_cast<T*>(args[name].cast<uintptr_t>()) : nullptr;
}

nr::RasterizeScene scene_from(const py::dict& a) {
  nr::RasterizeScene s;
  s.B = a["B"].cast<int64_t>(), s.V = a["V"].cast<int64_t>(), s.F = a["F"].cast<int64_t>();
  s.H = a["H"].cast<int>(), s.W = a["W"].cast<int>(), s.S = a["S"].cast<int>();
  s.T = a["T"].cast<int>();
  s.fill_back = a["fill_back"].cast<bool>();
  s.near = a["near"].cast<double>(), s.far = a["far"].cast<double>(), s.eps = a["eps"].cast<double>();
  s.faces = address<const int32_t>(a, "faces");
  s.faces_stride = a["faces_stride"].cast<int64_t>();
  s.threads = a["threads"].cast<int>();
  return s;
}

template <class T>
nr::RasterizeInputs<T> inputs_from(const py::dict& a) {
  return {address<const T>(a, "vertices"), address<const T>(a, "textures"),
          a["textures_stride"].cast<int64_t>(), address<const T>(a, "light"),
          address<const T>(a, "background")};
}

template <class T>
void forward(const py::dict& a) {
  const nr::RasterizeScene scene = scene_from(a);
  const auto inputs = inputs_from<T>(a);
  const nr::RasterizeOutputs<T> outputs{address<int32_t>(a, "face_index"),
                                        address<T>(a, "rgb_samples"), address<T>(a, "rgb"),
                                        address<T>(a, "alpha"), address<T>(a, "depth")};
  py::gil_scoped_release release;
  nr::rasterize_forward(scene, inputs, outputs);
}

template <class T>
void backward(const py::dict& a) {
  const nr::RasterizeScene scene = scene_from(a);
  const auto inputs = inputs_from<T>(a);
  const nr::RasterizeCotangents<T> cotangents{
      address<const int32_t>(a, "face_index"), address<const T>(a, "rgb_samples"),
      address<const T>(a, "grad_rgb"), address<const T>(a, "grad_alpha"),
      address<const T>(a, "grad_depth")};
  const nr::RasterizeGradients<T> gradients{address<T>(a, "grad_vertices"),
                                            address<T>(a, "grad_textures"),
                                            address<T>(a, "grad_light")};
  py::gil_scoped_release release;
  nr::rasterize_backward(scene, inputs, cotangents, gradients);
}

}  // namespace

PYBIND11_MODULE(_kernels, module) {
  module.doc() = "Compiled rasteriser of neural_renderer; use it through neural_renderer.";
  module.def("forward_float32", &forward<float>);
  module.def("forward_float64", &forward<double>);
  module.def("backward_float32", &backward<float>);
  module.def("backward_float64", &backward<double>);
}
