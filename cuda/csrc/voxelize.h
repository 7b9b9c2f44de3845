// Voxelisers: triangles in [0, 1]^3 to occupancy on an n^3 grid; grid axis k is coordinate k.
//
// Published rule (Kato & Harada 2019): solid are the cells around every grid line that meets a triangle, the
// cell of each corner, and all empty cells that no path through faces of empty cells connects with the border.
// Thin parts become thicker. Published IoU figures use this rule.
//
// Solid rule: a cell is solid if its centre is inside along at least two of the three axes. Along a line, a centre is
// inside where the winding number is not zero, if the winding number ends at zero and most of the mesh is oriented
// consistently. Otherwise a centre is inside behind an odd number of crossings, which does not depend on orientation;
// duplicated faces count once.
#pragma once

#include <cstdint>

namespace nr {

enum class VoxelRule { kPublished = 0, kSolid = 1 };

struct VoxelizeArguments {
  int64_t B, F;
  int n;
  VoxelRule rule;
  uint8_t* voxels;  // (B, n, n, n), 0 or 1
  int threads;
};

// Returns -1, or the index of the first mesh with a coordinate that is not finite; such meshes are skipped.
template <class T>
int64_t voxelize(const VoxelizeArguments&, const T* triangles /* (B, F, 3, 3) */);

// Counts for an IoU: the cells set in both of two grids (intersection) and the cells set in at least one (union).
struct OverlapArguments {
  int64_t B, cells;
  const uint8_t *a, *b;  // (B, cells), 0 or 1
  int64_t b_stride;      // distance between grids of b; 0: one grid for all of a
  int64_t* counts;       // (B, 2)
  int threads;
};
void overlap(const OverlapArguments&);

}  // namespace nr
