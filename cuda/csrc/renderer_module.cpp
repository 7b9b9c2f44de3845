// Python binding of the rasteriser and of smoothness. Tensors arrive as addresses: Python
// (neural_renderer/ops.py, smooth.py) has checked shapes, types and contiguity, and keeps the tensors alive during the call.
#include <pybind11/pybind11.h>

#include "rasterize.h"
#include "smoothness.h"
#ifdef NR_WITH_CUDA
#include "rasterize_cuda.h"
#include "smoothness_cuda.h"
#endif

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
nr::RasterizeOutputs<T> outputs_from(const py::dict& a) {
  return {address<int32_t>(a, "face_index"), address<T>(a, "rgb_samples"), address<T>(a, "rgb"),
          address<T>(a, "alpha"), address<T>(a, "depth")};
}

template <class T>
nr::RasterizeCotangents<T> cotangents_from(const py::dict& a) {
  return {address<const int32_t>(a, "face_index"), address<const T>(a, "rgb_samples"),
          address<const T>(a, "grad_rgb"), address<const T>(a, "grad_alpha"),
          address<const T>(a, "grad_depth")};
}

template <class T>
nr::RasterizeGradients<T> gradients_from(const py::dict& a) {
  return {address<T>(a, "grad_vertices"), address<T>(a, "grad_textures"), address<T>(a, "grad_light")};
}

template <class T>
void forward(const py::dict& a) {
  const auto scene = scene_from(a);
  const auto inputs = inputs_from<T>(a);
  const auto outputs = outputs_from<T>(a);
  py::gil_scoped_release release;
  nr::rasterize_forward(scene, inputs, outputs);
}

template <class T>
void backward(const py::dict& a) {
  const auto scene = scene_from(a);
  const auto inputs = inputs_from<T>(a);
  const auto cotangents = cotangents_from<T>(a);
  const auto gradients = gradients_from<T>(a);
  py::gil_scoped_release release;
  nr::rasterize_backward(scene, inputs, cotangents, gradients);
}

nr::SmoothnessScene edges_from(const py::dict& a) {
  return {a["B"].cast<int64_t>(), a["V"].cast<int64_t>(), a["E"].cast<int64_t>(),
          address<const int32_t>(a, "wings"), a["eps"].cast<double>(), a["threads"].cast<int>()};
}

template <class T>
nr::SmoothnessArrays<T> smoothness_arrays_from(const py::dict& a) {
  return {address<const T>(a, "vertices"), address<T>(a, "loss"), address<T>(a, "gradient")};
}

template <class T>
void smoothness(const py::dict& a) {
  const auto scene = edges_from(a);
  const auto arrays = smoothness_arrays_from<T>(a);
  py::gil_scoped_release release;
  nr::smoothness(scene, arrays);
}

#ifdef NR_WITH_CUDA
nr::CudaCall call_from(const py::dict& a) {
  return {a["device"].cast<int>(), address<void>(a, "stream"), address<void>(a, "workspace")};
}

template <class T>
void forward_cuda(const py::dict& a) {
  nr::rasterize_forward_cuda(call_from(a), scene_from(a), inputs_from<T>(a), outputs_from<T>(a));
}

template <class T>
void backward_cuda(const py::dict& a) {
  nr::rasterize_backward_cuda<T>(
      call_from(a), scene_from(a), inputs_from<T>(a), cotangents_from<T>(a), gradients_from<T>(a),
      {address<T>(a, "edge_shares"), address<T>(a, "depth_shares")});
}
template <class T>
void smoothness_cuda(const py::dict& a) {
  nr::smoothness_cuda(a["device"].cast<int>(), address<void>(a, "stream"), edges_from(a),
                      smoothness_arrays_from<T>(a));
}
#endif

}  // namespace

PYBIND11_MODULE(_kernels, module) {
  module.doc() = "Compiled rasteriser of neural_renderer; use it through neural_renderer.";
  module.def("forward_float32", &forward<float>);
  module.def("forward_float64", &forward<double>);
  module.def("backward_float32", &backward<float>);
  module.def("backward_float64", &backward<double>);
  module.def("smoothness_float32", &smoothness<float>);
  module.def("smoothness_float64", &smoothness<double>);
#ifdef NR_WITH_CUDA
  module.attr("cuda_architectures") = NR_WITH_CUDA;
  module.def("forward_workspace", [](const py::dict& a) { return nr::rasterize_forward_workspace(scene_from(a)); });
  module.def("backward_workspace", [](const py::dict& a) { return nr::rasterize_backward_workspace(scene_from(a)); });
  module.def("forward_cuda_float32", &forward_cuda<float>);
  module.def("forward_cuda_float64", &forward_cuda<double>);
  module.def("backward_cuda_float32", &backward_cuda<float>);
  module.def("backward_cuda_float64", &backward_cuda<double>);
  module.def("smoothness_cuda_float32", &smoothness_cuda<float>);
  module.def("smoothness_cuda_float64", &smoothness_cuda<double>);
#else
  module.attr("cuda_architectures") = py::none();
#endif
}
