// The baseline of gpu.py: a rasteriser that tests every pixel with every face, like the forward pass of Neural 3D Mesh
// Renderer (Kato, Ushiku, Harada, CVPR 2018) and its CUDA programs: one thread per pixel loops over all faces and
// keeps the nearest. It shares no code with the kernels in cuda/.
//
//     nvcc -shared -Xcompiler -fPIC -O3 -arch=native every_face.cu -o every_face.so
//
// corners   : (B, F, 3, 3), x and y in pixels (the centre of the first pixel is 0, y up) and depth z. To draw both
//             sides, pass each face twice, the second time with its corners reversed, as the published renderer does.
// face_index: (B, size, size) int32, row 0 at the top, -1 where nothing is drawn.
#include <cstdint>

namespace {

template <class T>
__global__ void every_face(const T* __restrict__ corners, int32_t* __restrict__ face_index, int64_t pixels, int faces,
                           int size, T near, T far) {
  const int64_t pixel = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (pixel >= pixels) return;
  const int64_t plane = static_cast<int64_t>(size) * size, member = pixel / plane;
  const int row = static_cast<int>(pixel % plane) / size, column = static_cast<int>(pixel % plane) % size;
  const T px = column, py = size - 1 - row;
  const T* face = corners + 9 * member * faces;
  float nearest = static_cast<float>(far);
  int32_t shown = -1;
  for (int f = 0; f < faces; ++f, face += 9) {
    const T x[3] = {face[0], face[3], face[6]}, y[3] = {face[1], face[4], face[7]};
    if (!((x[1] - x[0]) * (y[2] - y[0]) > (x[2] - x[0]) * (y[1] - y[0]))) continue;  // skip backs and faces without area
    const T e0 = (x[2] - x[1]) * (py - y[1]) - (y[2] - y[1]) * (px - x[1]);
    const T e1 = (x[0] - x[2]) * (py - y[2]) - (y[0] - y[2]) * (px - x[2]);
    const T e2 = (x[1] - x[0]) * (py - y[0]) - (y[1] - y[0]) * (px - x[0]);
    if (!(e0 >= 0 && e1 >= 0 && e2 >= 0)) continue;
    const T z = (e0 + e1 + e2) / (e0 / face[2] + e1 / face[5] + e2 / face[8]);
    if (!(z > near && z < far) || !(static_cast<float>(z) < nearest)) continue;
    nearest = static_cast<float>(z);
    shown = f;
  }
  face_index[pixel] = shown;
}

template <class T>
int draw(const T* corners, int32_t* face_index, int64_t batch, int faces, int size, double near, double far,
         void* stream) {
  constexpr int kThreads = 256;
  const int64_t pixels = batch * size * size;
  const unsigned blocks = static_cast<unsigned>((pixels + kThreads - 1) / kThreads);
  every_face<T><<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      corners, face_index, pixels, faces, size, static_cast<T>(near), static_cast<T>(far));
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

extern "C" int every_face_float(const float* corners, int32_t* face_index, int64_t batch, int faces, int size,
                                double near, double far, void* stream) {
  return draw(corners, face_index, batch, faces, size, near, far, stream);
}
extern "C" int every_face_double(const double* corners, int32_t* face_index, int64_t batch, int faces, int size,
                                 double near, double far, void* stream) {
  return draw(corners, face_index, batch, faces, size, near, far, stream);
}
