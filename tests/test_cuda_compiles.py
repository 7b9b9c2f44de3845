"""The headers that CPU and CUDA share compile as device code. No GPU is needed, only nvcc."""
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parent.parent / "cuda" / "csrc"
KERNELS = ["draw_float", "draw_double", "voxels_float", "voxels_double", "flood"]

SOURCE = r"""
#include "raster_math.h"
#include "voxel_math.h"

template <class T>
__device__ void draw(const T* vertices, const int32_t* faces, int64_t num_faces, int size,
                     long long* keys, T* gradient, int64_t* texels) {
  const int64_t i = blockIdx.x * blockDim.x + threadIdx.x;
  nr::ScreenFace face;
  if (i >= num_faces || !nr::load_face(vertices, faces + 3 * i, size, size, true, face)) return;
  const uint32_t order = nr::draw_order(i, face.reversed, num_faces);
  double inverse_z[3], e[3];
  for (int k = 0; k < 3; ++k) inverse_z[k] = 1.0 / face.z[k];
  nr::edge_functions(face, 1.0, 2.0, e);
  const int64_t key = nr::visibility_key(nr::depth_at(e, inverse_z), order);
  atomicMin(keys, static_cast<long long>(key));
  const nr::TexelWeights weights = nr::texel_weights(face, e, inverse_z, 4, 1e-4);
  for (int n = 0; n < 8; ++n) texels[n] = weights.weight[n] > 0.5 ? weights.index[n] : 0;
  const int first = nr::first_in(nr::min3(face.x[0], face.x[1], face.x[2]), size);
  const int last = nr::last_in(nr::max3(face.x[0], face.x[1], face.x[2]), size);
  const auto wanted = [&](int, int line, int) { return first <= line && line <= last; };
  int edges = 0;
  const auto begin_edge = [&](int, int) { ++edges; };
  nr::for_each_crossing(face, size, size, begin_edge, wanted, [&](const nr::Crossing& c) {
    if (nr::key_order(keys[c.inside]) != static_cast<int32_t>(order)) return;
    gradient[c.a] += T(nr::edge_pull(1.0, c.outside, c.at, 2.0 / size, c.lever_a, 1e-4));
    gradient[c.b] += T(nr::edge_pull(1.0, c.outside, c.at, 2.0 / size, c.lever_b, 1e-4));
  });
  texels[0] += edges;
}

template <class T>
__device__ void voxels(const T* corners, int n, double* heights) {
  const int axis = blockIdx.x % 3, u = threadIdx.x, v = threadIdx.y;
  const nr::ColumnTriangle t = nr::along_axis(corners, n, axis);
  double e[3];
  if (nr::meets_line(t, u, v, e)) heights[0] = nr::crossing_at(t, e);
  if (nr::owns_line(t, u + 0.5, v + 0.5, e)) heights[1] = nr::crossing_at(t, e);
}

extern "C" __global__ void draw_float(const float* v, const int32_t* f, int64_t count, int size,
                                      long long* keys, float* gradient, int64_t* texels) {
  draw(v, f, count, size, keys, gradient, texels);
}
extern "C" __global__ void draw_double(const double* v, const int32_t* f, int64_t count, int size,
                                       long long* keys, double* gradient, int64_t* texels) {
  draw(v, f, count, size, keys, gradient, texels);
}
extern "C" __global__ void voxels_float(const float* corners, int n, double* heights) {
  voxels(corners, n, heights);
}
extern "C" __global__ void voxels_double(const double* corners, int n, double* heights) {
  voxels(corners, n, heights);
}
extern "C" __global__ void flood(uint64_t* rows, const uint64_t* open) {
  rows[threadIdx.x] = nr::flood_up(rows[threadIdx.x], open[threadIdx.x]);
  rows[threadIdx.x] |= nr::flood_down(rows[threadIdx.x], open[threadIdx.x]);
}
"""


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_shared_headers_compile_as_device_code(tmp_path):
    source, compiled = tmp_path / "headers.cu", tmp_path / "headers.o"
    source.write_text(SOURCE)
    run = subprocess.run(
        ["nvcc", "-c", "-std=c++17", "--fmad=false", "--extended-lambda", "-arch=sm_80",
         "--no-compress", f"-I{CSRC}", str(source), "-o", str(compiled)],
        capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    # A host stub carries a kernel's name too; only device code has its block of constants.
    code = compiled.read_bytes()
    missing = [name for name in KERNELS if b".nv.constant0." + name.encode() not in code]
    assert not missing
