// Load balancing: distributes work of uneven size evenly over the threads of a block. Only .cu files include this.
#pragma once

namespace nr {

// A LoadBalance lies in shared memory. Every thread is the owner of kEach lists of work items and knows their
// lengths. The items of all lists are numbered one after another: item i belongs to list owner_of(i), and any
// thread may do it. The type `Count` must hold the number of all items.
template <int kThreads, int kEach, class Count = int>
struct LoadBalance {
  Count ends[kThreads * kEach];  // inclusive prefix sums of the lengths
  Count sums[kThreads];

  // All threads of the block call this, after the items of the previous round are done. It ends with a barrier.
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
  __device__ int owner_of(Count item) const {  // binary search for the first list that ends after the item
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
