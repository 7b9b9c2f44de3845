// Work of uneven size, dealt out evenly to the threads of a block. Included by .cu files alone.
#pragma once

namespace nr {

// Lies in shared memory. Every thread brings the items of kEach owners, in order; item i of all belongs to
// owner_of(i), and any thread may do it. `Count` holds the number of all items.
template <int kThreads, int kEach, class Count = int>
struct Deal {
  Count ends[kThreads * kEach];  // where the items of each owner end, among all
  Count sums[kThreads];

  // By all threads of the block, when the items of the round before are done; ends with a barrier.
  __device__ void set(const Count (&counts)[kEach]) {
    Count mine = 0;
    for (int k = 0; k < kEach; ++k) mine += counts[k];
    Count* sum = sums + threadIdx.x;
    *sum = mine;
    for (int reach = 1; reach < kThreads; reach *= 2) {
      __syncthreads();
      const Count before = static_cast<int>(threadIdx.x) >= reach ? sum[-reach] : 0;
      __syncthreads();
      *sum += before;
    }
    Count end = *sum - mine;
    for (int k = 0; k < kEach; ++k) ends[kEach * threadIdx.x + k] = end += counts[k];
    __syncthreads();
  }

  __device__ Count total() const { return ends[kThreads * kEach - 1]; }
  __device__ Count first_of(int owner) const { return owner ? ends[owner - 1] : 0; }
  __device__ int owner_of(Count item) const {  // the first whose items end beyond it
    int owner = 0, left = kThreads * kEach;
    while (left > 1) {
      const int half = left / 2;
      owner += ends[owner + half - 1] <= item ? half : 0;
      left -= half;
    }
    return owner;
  }
};

}  // namespace nr
