// Python binding of the rasteriser and of smoothness. Tensors arrive as addresses. neural_renderer/ops.py and smooth.py
// have checked their shapes, types and contiguity, and keep them alive during the call.
#include <pybind11/pybind11.h>

#include "arguments.h"
#include "rasterize.h"
#include "smoothness.h"
#ifdef NR_WITH_CUDA
#include "rasterize_cuda.h"
#include "smoothness_cuda.h"
#endif

namespace py = pybind11;
using nr::Arguments;

namespace {

nr::RasterizeScene scene_from(Arguments& a) {
  nr::RasterizeScene s;
  s.B = a.number<int64_t>("B"), s.V = a.number<int64_t>("V"), s.F = a.number<int64_t>("F");
  s.H = a.number<int>("H"), s.W = a.number<int>("W"), s.S = a.number<int>("S");
  s.T = a.number<int>("T");
  s.fill_back = a.number<bool>("fill_back"), s.perspective = a.number<bool>("perspective");
  s.near = a.number<double>("near"), s.far = a.number<double>("far"), s.eps = a.number<double>("eps");
  s.faces = a.array<const int32_t>("faces");
  s.faces_stride = a.number<int64_t>("faces_stride");
  s.threads = a.number<int>("threads");
  return s;
}

template <class T>
nr::RasterizeInputs<T> inputs_from(Arguments& a) {
  return {a.array<const T>("vertices"), a.array<const T>("textures"), a.number<int64_t>("textures_stride"),
          a.array<const T>("colours"), a.number<int64_t>("colours_stride"), a.array<const T>("light"), a.array<const T>("background")};
}

template <class T>
nr::RasterizeOutputs<T> outputs_from(Arguments& a) {
  return {a.array<int32_t>("face_index"), a.array<T>("rgb_samples"), a.array<T>("rgb"), a.array<T>("alpha"),
          a.array<T>("depth")};
}

template <class T>
nr::RasterizeCotangents<T> cotangents_from(Arguments& a) {
  return {a.array<const int32_t>("face_index"), a.array<const T>("rgb_samples"), a.array<const T>("grad_rgb"),
          a.array<const T>("grad_alpha"), a.array<const T>("grad_depth")};
}

template <class T>
nr::RasterizeGradients<T> gradients_from(Arguments& a) {
  return {a.array<T>("grad_vertices"), a.array<T>("grad_textures"), a.array<T>("grad_colours"),
          a.array<T>("grad_light")};
}

template <class T>
void forward(const py::dict& given) {
  Arguments a(given);
  const auto scene = scene_from(a);
  const auto inputs = inputs_from<T>(a);
  const auto outputs = outputs_from<T>(a);
  a.finish();
  py::gil_scoped_release release;
  nr::rasterize_forward(scene, inputs, outputs);
}

template <class T>
void backward(const py::dict& given) {
  Arguments a(given);
  const auto scene = scene_from(a);
  const auto inputs = inputs_from<T>(a);
  const auto cotangents = cotangents_from<T>(a);
  const auto gradients = gradients_from<T>(a);
  a.finish();
  py::gil_scoped_release release;
  nr::rasterize_backward(scene, inputs, cotangents, gradients);
}

nr::SmoothnessScene edges_from(Arguments& a) {
  return {a.number<int64_t>("B"), a.number<int64_t>("V"), a.number<int64_t>("E"), a.array<const int32_t>("wings"),
          a.number<double>("eps"), a.number<int>("threads")};
}

template <class T>
nr::SmoothnessArrays<T> smoothness_arrays_from(Arguments& a) {
  return {a.array<const T>("vertices"), a.array<T>("loss"), a.array<T>("gradient")};
}

template <class T>
void smoothness(const py::dict& given) {
  Arguments a(given);
  const auto scene = edges_from(a);
  const auto arrays = smoothness_arrays_from<T>(a);
  a.finish();
  py::gil_scoped_release release;
  nr::smoothness(scene, arrays);
}

#ifdef NR_WITH_CUDA
nr::CudaCall call_from(Arguments& a) {
  return {a.number<int>("device"), a.array<void>("stream"), a.array<void>("workspace")};
}

template <class T>
void forward_cuda(const py::dict& given) {
  Arguments a(given);
  const auto call = call_from(a);
  const auto scene = scene_from(a);
  const auto inputs = inputs_from<T>(a);
  const auto outputs = outputs_from<T>(a);
  a.finish();
  nr::rasterize_forward_cuda(call, scene, inputs, outputs);
}

template <class T>
void backward_cuda(const py::dict& given) {
  Arguments a(given);
  const auto call = call_from(a);
  const auto scene = scene_from(a);
  const auto inputs = inputs_from<T>(a);
  const auto cotangents = cotangents_from<T>(a);
  const auto gradients = gradients_from<T>(a);
  const nr::FixedOrder<T> fixed{a.array<T>("edge_shares"), a.array<T>("sample_shares"), a.array<T>("colour_shares")};
  a.finish();
  nr::rasterize_backward_cuda<T>(call, scene, inputs, cotangents, gradients, fixed);
}

template <class T>
void smoothness_cuda(const py::dict& given) {
  Arguments a(given);
  const int device = a.number<int>("device");
  void* const stream = a.array<void>("stream");
  const auto scene = edges_from(a);
  const auto arrays = smoothness_arrays_from<T>(a);
  a.finish();
  nr::smoothness_cuda(device, stream, scene, arrays);
}

// Bytes of workspace that a call needs.
size_t workspace(size_t (*bytes)(const nr::RasterizeScene&), int64_t B, int64_t F, int H, int W, int S) {
  nr::RasterizeScene s{};
  s.B = B, s.F = F, s.H = H, s.W = W, s.S = S;
  return bytes(s);
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
  module.def("forward_workspace", [](int64_t B, int64_t F, int H, int W, int S) {
    return workspace(nr::rasterize_forward_workspace, B, F, H, W, S);
  }, py::arg("B"), py::arg("F"), py::arg("H"), py::arg("W"), py::arg("S"));
  module.def("backward_workspace", [](int64_t B, int64_t F, int H, int W, int S) {
    return workspace(nr::rasterize_backward_workspace, B, F, H, W, S);
  }, py::arg("B"), py::arg("F"), py::arg("H"), py::arg("W"), py::arg("S"));
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
