// The k largest elements of a row, by one block: elements and their indices as one number, the
// number of the k-th by descending over its digits, and a sort of what is not below it.
#pragma once
#include "backends/cuda/kernels/plain_rows.cuh"

namespace mica::cuda {

// Larger is better, of equal elements the lower index is, not-a-number is below everything. Never
// 0.
MICA_HD uint64_t rank_of(float value, int64_t index) {
  uint32_t u = bits_of(value);
  if (u == 0x80000000u) u = 0;  // -0 equals 0
  const bool nan = value != value;
  const uint32_t key = nan ? 0 : (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
  return (static_cast<uint64_t>(key) << 32) | (0xffffffffu - static_cast<uint32_t>(index));
}
MICA_HD int32_t index_of(uint64_t rank) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(rank));
}

constexpr int kSelectThreads = 1024;
constexpr uint32_t kSortShared = 2048;  // so many are sorted in shared memory
constexpr uint32_t kDigitBits = 11;
constexpr uint32_t kDigits = 1u << kDigitBits;

inline uint32_t sort_room(int64_t k) {  // a power of two, at least 2
  uint32_t m = 2;
  while (m < k) m *= 2;
  return m;
}

#ifdef __CUDACC__
struct SelectShared {
  uint64_t sorted[kSortShared];
  uint32_t bins[kDigits];
  uint32_t need, bin, taken, n_found;
};

// By the first warp: the digit at which the count from the largest digit down reaches `need`.
__device__ inline void find_digit(SelectShared& s) {
  constexpr uint32_t kEach = kDigits / 32;
  const uint32_t lane = threadIdx.x;
  const uint32_t top = kDigits - 1 - lane * kEach;  // this lane's digits go down from here
  uint32_t mine = 0;
  for (uint32_t i = 0; i < kEach; ++i) mine += s.bins[top - i];
  uint32_t until = mine;  // with the lanes before
  for (uint32_t offset = 1; offset < 32; offset *= 2) {
    const uint32_t other = __shfl_up_sync(0xffffffffu, until, offset);
    if (lane >= offset) until += other;
  }
  uint32_t before = until - mine;
  if (before < s.need && until >= s.need) {
    uint32_t digit = top;
    while (before + s.bins[digit] < s.need) before += s.bins[digit--];
    s.bin = digit;
    s.taken = before;
  }
}

// The number r for which just k elements of the row have numbers not below it. 1 <= k <= n.
__device__ inline uint64_t kth_rank(const float* x, int64_t n, uint32_t k, SelectShared& s) {
  uint64_t prefix = 0;
  uint64_t mask = 0;
  uint32_t need = k;
  for (int shift = 64 - static_cast<int>(kDigitBits); mask != ~uint64_t{0};
       shift -= static_cast<int>(kDigitBits)) {
    const int at = shift < 0 ? 0 : shift;
    const uint64_t digit_mask = ~mask >> at & (kDigits - 1);
    for (uint32_t i = threadIdx.x; i < kDigits; i += kSelectThreads) s.bins[i] = 0;
    if (threadIdx.x == 0) s.need = need;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += kSelectThreads) {
      const uint64_t r = rank_of(x[i], i);
      if ((r & mask) == prefix) atomicAdd(&s.bins[r >> at & digit_mask], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) find_digit(s);
    __syncthreads();
    const uint32_t bin = s.bin;
    prefix |= static_cast<uint64_t>(bin) << at;
    mask |= digit_mask << at;
    need -= s.taken;
    const bool all = s.bins[bin] == need;
    __syncthreads();
    if (all) break;
  }
  return prefix;
}

// Falling; m is a power of two.
__device__ inline void sort_falling(uint64_t* a, uint32_t m) {
  for (uint32_t size = 2; size <= m; size *= 2) {
    for (uint32_t stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (uint32_t i = threadIdx.x; i < m / 2; i += kSelectThreads) {
        const uint32_t low = i / stride * stride * 2 + i % stride;
        const uint64_t p = a[low];
        const uint64_t q = a[low + stride];
        const bool falling = (low & size) == 0;
        if ((p < q) == falling) {
          a[low] = q;
          a[low + stride] = p;
        }
      }
    }
  }
  __syncthreads();
}

// The numbers of the k largest, largest first. `room`: sort_room(k) numbers when that is more than
// kSortShared. All threads of the block; the answer is seen by all.
__device__ inline const uint64_t* select_sorted(const float* x, int64_t n, uint32_t k,
                                                uint64_t* room, SelectShared& s) {
  const uint64_t least = kth_rank(x, n, k, s);
  uint32_t m = 2;
  while (m < k) m *= 2;
  uint64_t* const sorted = m <= kSortShared ? s.sorted : room;
  for (uint32_t i = threadIdx.x; i < m; i += kSelectThreads) sorted[i] = 0;
  if (threadIdx.x == 0) s.n_found = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < n; i += kSelectThreads) {
    const uint64_t r = rank_of(x[i], i);
    if (r < least) continue;
    const uint32_t place = atomicAdd(&s.n_found, 1u);
    if (place < m) sorted[place] = r;
  }
  sort_falling(sorted, m);
  return sorted;
}
#endif

}  // namespace mica::cuda
