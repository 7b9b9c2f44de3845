// Gives random meshes, normal and degenerate, to the kernels: `sanitize_kernels CASES SEED`. sanitize.py builds it
// with sanitizers, which end the program at the first undefined access, overflow or cast.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "rasterize.h"
#include "smoothness.h"
#include "voxelize.h"

namespace {

using Random = std::mt19937_64;

int integer(Random& r, int low, int high) { return std::uniform_int_distribution<int>(low, high)(r); }
double real(Random& r, double low, double high) { return std::uniform_real_distribution<double>(low, high)(r); }
bool coin(Random& r, double chance = 0.5) { return real(r, 0, 1) < chance; }

// An array with its own heap memory of exact size, so that an access past its end is found. `size` may be 0.
template <class T>
struct Array {
  explicit Array(int64_t size, T value = T()) : size(size), data(new T[size]) {
    for (int64_t i = 0; i < size; ++i) data[i] = value;
  }
  T* get(bool wanted = true) const { return wanted ? data.get() : nullptr; }
  int64_t size;
  std::unique_ptr<T[]> data;
};

enum Kind { kPlain, kGrid, kHuge, kStrange, kTiny, kKinds };

template <class T>
T coordinate(Random& r, Kind kind, double low, double high) {
  using Limits = std::numeric_limits<T>;
  const T strange[] = {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), Limits::max(),
                       Limits::lowest(), Limits::denorm_min(), -Limits::denorm_min(), Limits::min(), T(0), T(-0.0), T(1), T(-1),
                       T(2147483648.0), T(-2147483649.0), T(9.3e18), T(1e30), T(-1e30)};
  switch (kind) {
    case kGrid: return T(low + (high - low) * integer(r, 0, 16) / 16);
    case kHuge: return T(real(r, -1, 1) * std::pow(10.0, real(r, -2, 30)));
    case kStrange: return coin(r, 0.6) ? T(real(r, low, high)) : strange[integer(r, 0, 16)];
    case kTiny: return T(real(r, -1, 1) * std::pow(10.0, real(r, -320, -2)));
    default: return T(real(r, low, high));
  }
}

template <class T>
Array<T> coordinates(Random& r, int64_t size, Kind kind, double low, double high) {
  Array<T> values(size);
  for (int64_t i = 0; i < size; ++i) values.data[i] = coordinate<T>(r, kind, low, high);
  return values;
}

void demand(bool holds, const char* what, unsigned long seed) {
  if (holds) return;
  std::fprintf(stderr, "case %lu: %s\n", seed, what);
  std::exit(1);
}

template <class T>
bool all_within(const Array<T>& values, double low, double high) {
  for (int64_t i = 0; i < values.size; ++i)
    if (!(values.data[i] >= low && values.data[i] <= high)) return false;
  return true;
}

int side(Random& r) { return coin(r, 0.2) ? 1 : integer(r, 1, coin(r, 0.1) ? 130 : 24); }

template <class T>
void draw(unsigned long seed) {
  Random r(seed);
  const Kind kind = Kind(integer(r, 0, kKinds - 1));
  nr::RasterizeScene s;
  s.B = integer(r, coin(r, 0.05) ? 0 : 1, 3);
  s.V = integer(r, 1, 40);
  s.F = coin(r, 0.1) ? 0 : integer(r, 1, 50);
  s.H = side(r), s.W = side(r), s.S = integer(r, 1, 2);
  const bool textured = coin(r), lit = textured && coin(r), coloured = textured && coin(r, 0.4);  // by vertices
  s.T = textured && !coloured ? integer(r, 1, 4) : 0;
  s.perspective = coin(r, 0.8);
  s.fill_back = coin(r);
  s.near = kind == kStrange && coin(r) ? 1e-300 : real(r, 0.01, 0.5);
  s.far = coin(r, 0.3) ? 1e30 : real(r, 1, 100);
  s.eps = coin(r, 0.2) ? 0 : 1e-4;
  s.threads = integer(r, 1, 3);
  const bool one_topology = coin(r), one_texture = coin(r);
  s.faces_stride = one_topology ? 0 : 3 * s.F;
  Array<int32_t> faces((one_topology ? (s.B ? 1 : 0) : s.B) * s.F * 3);
  const int corners = coin(r, 0.2) ? 1 : int(s.V);  // few corners: repeated and degenerate faces
  for (int64_t i = 0; i < faces.size; ++i) faces.data[i] = integer(r, 0, corners - 1);
  s.faces = faces.get();

  auto vertices = coordinates<T>(r, s.B * s.V * 3, kind, -1.3, 1.3);
  if (kind == kPlain || kind == kGrid || coin(r))
    for (int64_t i = 2; i < vertices.size; i += 3)
      vertices.data[i] = coordinate<T>(r, kind == kGrid ? kGrid : kPlain, -0.5, 5);  // depths that are drawn
  const int64_t texels = s.F * s.T * s.T * s.T * 3;
  auto textures = coordinates<T>(r, (one_texture ? 1 : s.B) * texels, kPlain, 0, 1);
  auto light = coordinates<T>(r, s.B * s.F * 6, kPlain, 0, 2);
  auto background = coordinates<T>(r, s.B * 3, kPlain, 0, 1);
  auto colours = coordinates<T>(r, coloured ? (one_texture ? 1 : s.B) * s.V * 3 : 0, kPlain, 0, 1);
  const nr::RasterizeInputs<T> inputs{vertices.get(), textures.get(textured && !coloured), one_texture ? 0 : texels,
                                      colours.get(coloured), one_texture ? 0 : 3 * s.V,
                                      light.get(lit), background.get(textured)};

  const bool alpha = coin(r, 0.8), depth = coin(r);
  const int64_t pixels = s.B * s.H * s.W, samples = pixels * s.S * s.S;
  Array<int32_t> index(samples, -7);
  Array<T> samples_out(textured ? samples * 3 : 0), rgb_out(textured ? pixels * 3 : 0), alpha_out(pixels),
      depth_out(pixels);
  nr::rasterize_forward(s, inputs, nr::RasterizeOutputs<T>{index.get(), samples_out.get(textured),
                                                           rgb_out.get(textured), alpha_out.get(alpha),
                                                           depth_out.get(depth)});
  demand(all_within(index, -1, 2.0 * s.F - 1), "a face index out of range", seed);
  demand(all_within(alpha_out, 0, 1), "alpha outside of 0 to 1", seed);
  if (textured) demand(all_within(rgb_out, 0, 2.001), "a colour out of range", seed);

  auto d_rgb = coordinates<T>(r, rgb_out.size, kPlain, -1, 1), d_alpha = coordinates<T>(r, pixels, kPlain, -1, 1),
       d_depth = coordinates<T>(r, pixels, kPlain, -1, 1);
  Array<T> g_vertices(vertices.size), g_textures(s.B * texels), g_light(light.size),
      g_colours(coloured ? s.B * s.V * 3 : 0);
  const bool use_rgb = textured && coin(r, 0.8);
  nr::rasterize_backward(
      s, inputs,
      nr::RasterizeCotangents<T>{index.get(), samples_out.get(textured), d_rgb.get(use_rgb),
                                 d_alpha.get(alpha && coin(r, 0.8)), d_depth.get(depth && coin(r, 0.8))},
      nr::RasterizeGradients<T>{g_vertices.get(coin(r, 0.9)), g_textures.get(use_rgb && !coloured && coin(r)),
                                g_colours.get(use_rgb && coloured && coin(r)),
                                g_light.get(use_rgb && lit && coin(r))});
  const double most = std::numeric_limits<T>::max();
  demand(all_within(g_textures, -most, most) && all_within(g_light, -most, most),
         "a gradient of a texture or light that is not finite", seed);
  if (kind == kPlain && s.eps > 0)
    demand(all_within(g_vertices, -most, most), "a gradient of plain vertices that is not finite", seed);
}

template <class T>
void fill(unsigned long seed) {
  Random r(seed);
  const Kind kind = Kind(integer(r, 0, kKinds - 1));
  nr::VoxelizeArguments a;
  a.B = integer(r, coin(r, 0.05) ? 0 : 1, 3);
  a.F = coin(r, 0.1) ? 0 : integer(r, 1, 60);
  a.n = coin(r, 0.2) ? 1 : integer(r, 1, coin(r, 0.1) ? 130 : 40);
  a.rule = coin(r) ? nr::VoxelRule::kPublished : nr::VoxelRule::kSolid;
  a.threads = integer(r, 1, 3);
  auto triangles = coordinates<T>(r, a.B * a.F * 9, kind, -0.2, 1.2);
  if (coin(r, 0.3))  // degenerate: corners that repeat
    for (int64_t i = 0; i + 5 < triangles.size; i += 9 * integer(r, 1, 3))
      for (int k = 0; k < 3; ++k) triangles.data[i + 3 + k] = triangles.data[i + k];
  Array<uint8_t> voxels(a.B * a.n * a.n * a.n, 9);
  a.voxels = voxels.get();
  nr::voxelize(a, static_cast<const T*>(triangles.get()));
  demand(kind == kStrange || all_within(voxels, 0, 1), "a voxel neither empty nor full", seed);
}

template <class T>
void bend(unsigned long seed) {
  Random r(seed);
  const Kind kind = Kind(integer(r, 0, kKinds - 1));
  nr::SmoothnessScene s;
  s.B = integer(r, coin(r, 0.05) ? 0 : 1, 5);
  s.V = integer(r, 1, 40);
  s.E = coin(r, 0.1) ? 0 : integer(r, 1, 90);
  s.eps = coin(r, 0.2) ? 0 : 1e-6;
  s.threads = integer(r, 1, 3);
  Array<int32_t> wings(4 * s.E);
  const int corners = coin(r, 0.2) ? 1 : int(s.V);  // edges without length
  for (int64_t i = 0; i < wings.size; ++i) wings.data[i] = integer(r, 0, corners - 1);
  s.wings = wings.get();
  auto vertices = coordinates<T>(r, s.B * s.V * 3, kind, -1, 1);
  Array<T> loss(s.B), gradient(s.B * s.V * 3);
  nr::smoothness(s, nr::SmoothnessArrays<T>{vertices.get(), loss.get(), gradient.get()});
  if (kind == kPlain && s.eps > 0) {
    demand(all_within(loss, 0, 4.001 * s.E), "a smoothness out of range", seed);
    demand(all_within(gradient, -1e30, 1e30), "a gradient of smoothness that is not finite", seed);
  }
}

}  // namespace

int main(int, char** arguments) {
  const unsigned long cases = std::strtoul(arguments[1], nullptr, 10);
  const unsigned long seed = std::strtoul(arguments[2], nullptr, 10);
  for (unsigned long i = seed; i < seed + cases; ++i) {
    draw<float>(6 * i), draw<double>(6 * i + 1), fill<float>(6 * i + 2), fill<double>(6 * i + 3);
    bend<float>(6 * i + 4), bend<double>(6 * i + 5);
  }
  std::printf("%lu meshes drawn, voxelised and smoothed\n", 2 * cases);
}
