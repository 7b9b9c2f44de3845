// The published voxel rule on a GPU: the same voxels as voxelize.h, bit for bit.
#pragma once

#include <cstddef>

#include "voxelize.h"

namespace nr {

// Bytes of workspace that voxelize_cuda needs; 0 if the grids fit into shared memory.
size_t voxelize_workspace(const VoxelizeArguments&);

// Triangles (B, F, 3, 3) and voxels lie on the device. Launched on `stream` without waiting. `first_bad`, on the
// device, must begin as B; it is lowered to the index of the first mesh with a coordinate that is not finite.
template <class T>
void voxelize_cuda(int device, void* stream, const VoxelizeArguments&, const T* triangles,
                   void* workspace, long long* first_bad);

// All arrays lie on the device. Launched on `stream` without waiting.
void overlap_cuda(int device, void* stream, const OverlapArguments&);

}  // namespace nr
