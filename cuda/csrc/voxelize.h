// Voxelisers: triangles in [0, 1]^3 to occupancy on an n^3 grid; grid axis k is coordinate k.
//
// Published rule (Kato & Harada 2019, the evaluation of this line of work): surface cells around
// every grid line that meets a triangle, each corner's own cell, then everything that empty space
// cannot reach from the border through faces of cells. Thickens thin parts; published IoU figures
// are this rule's.
//
// Solid rule: a cell is solid where its centre is inside along at least two of the three axes. Along a line, inside is
// where the winding number is not zero, if it ends at zero and the mesh is turned outwards for the most part; else
// where the line has crossed the surface an odd number of times, which no orientation changes. Faces that stand twice
// count once there.
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

// Returns -1, or the first mesh with a coordinate that is not finite; such meshes are left undrawn.
template <class T>
int64_t voxelize(const VoxelizeArguments&, const T* triangles /* (B, F, 3, 3) */);

// What an IoU is made of: the cells that are set in both of two grids, and those set in either.
struct OverlapArguments {
  int64_t B, cells;
  const uint8_t *a, *b;  // (B, cells), 0 or 1
  int64_t b_stride;      // from a grid of b to the next; 0: one for all
  int64_t* counts;       // (B, 2)
  int threads;
};
void overlap(const OverlapArguments&);

}  // namespace nr
