// The published voxel rule on a GPU: the same voxels as voxelize.h, bit for bit.
#pragma once

#include <cstddef>

#include "voxelize.h"

namespace nr {

// Bytes of workspace that the call below needs; 0 where the grids fit into shared memory.
size_t voxelize_workspace(const VoxelizeArguments&);

// Triangles (B, F, 3, 3) and voxels lie on the device; launched on `stream`, without waiting.
// `first_bad`, on the device, is lowered to the first mesh with a coordinate that is not finite.
template <class T>
void voxelize_cuda(int device, void* stream, const VoxelizeArguments&, const T* triangles,
                   void* workspace, long long* first_bad);

// All arrays lie on the device; launched on `stream`, without waiting.
void overlap_cuda(int device, void* stream, const OverlapArguments&);

}  // namespace nr
