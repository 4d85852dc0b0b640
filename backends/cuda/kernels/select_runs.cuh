// What several blocks find out about long rows before one block answers: the largest number of each
// run of a row, and how many of its elements count. The k-th largest of those is at most the row's
// k-th largest number, so that only k runs have to be read again for it.
#pragma once
#include "backends/cuda/kernels/select.cuh"

namespace mica::cuda {

constexpr int kRunThreads = 256;
constexpr int64_t kRunElems = 256;
constexpr int64_t kMostRuns = kSelectThreads;  // of a row

// The runs of rows of n elements.
struct Runs {
  uint64_t tops, counts;  // u64, u32 [row][n_runs]
  int64_t length;
  uint32_t n_runs;
};
inline Runs runs_of(int64_t n) {
  Runs r = {};
  const int64_t least = (n + kMostRuns - 1) / kMostRuns;
  r.length = least <= kRunElems ? kRunElems : (least + 31) / 32 * 32;
  r.n_runs = static_cast<uint32_t>((n + r.length - 1) / r.length);
  return r;
}
inline uint64_t runs_bytes(const Runs& r, int64_t n_rows) {
  return uint64_t{r.n_runs} * static_cast<uint64_t>(n_rows) * 12;
}
// The memory starts at a multiple of 8.
inline void place_runs(Runs& r, uint64_t address, int64_t n_rows) {
  r.tops = address;
  r.counts = address + uint64_t{r.n_runs} * static_cast<uint64_t>(n_rows) * 8;
}

#ifdef __CUDACC__
__device__ inline bool is_valid(float x) { return x > -infinity(); }
__device__ inline uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

// A run by a warp.
__device__ inline void find_run(const float* x, int64_t n, const Runs& runs, int64_t row,
                                uint32_t run) {
  const int64_t begin = run * runs.length;
  const int64_t end = min(n, begin + runs.length);
  uint64_t best = 0;
  uint32_t n_valid = 0;
#pragma unroll 8
  for (int64_t i = begin + threadIdx.x % 32; i < end; i += 32) {
    const float v = x[i];
    best = larger(best, rank_of(v, i));
    n_valid += is_valid(v) ? 1 : 0;
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    best = larger(best, __shfl_xor_sync(0xffffffffu, best, offset));
    n_valid += __shfl_xor_sync(0xffffffffu, n_valid, offset);
  }
  if (threadIdx.x % 32 != 0) return;
  reinterpret_cast<uint64_t*>(runs.tops)[row * runs.n_runs + run] = best;
  reinterpret_cast<uint32_t*>(runs.counts)[row * runs.n_runs + run] = n_valid;
}

// As select_sorted(), for k <= kSortShared of a row whose runs are known. nullptr: there are too
// few runs, or too many elements like those wanted stand in them.
__device__ inline const uint64_t* select_from_runs(const float* x, int64_t n, uint32_t k,
                                                   const Runs& runs, int64_t row, SelectShared& s) {
  if (k > runs.n_runs) return nullptr;
  uint32_t m = 2;
  while (m < runs.n_runs) m *= 2;
  const uint64_t* tops = reinterpret_cast<const uint64_t*>(runs.tops) + row * runs.n_runs;
  if (threadIdx.x < m) s.sorted[threadIdx.x] = threadIdx.x < runs.n_runs ? tops[threadIdx.x] : 0;
  if (threadIdx.x == 0) s.n_found = 0;
  sort_falling(s.sorted, m);
  const uint64_t least = s.sorted[k - 1];
  if (threadIdx.x < k)
    s.bins[threadIdx.x] = static_cast<uint32_t>(index_of(s.sorted[threadIdx.x]) / runs.length);
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < kSortShared; i += kSelectThreads) s.sorted[i] = 0;
  __syncthreads();
  for (uint32_t i = threadIdx.x / 32; i < k; i += kSelectThreads / 32) {
    const int64_t begin = s.bins[i] * runs.length;
    const int64_t end = min(n, begin + runs.length);
#pragma unroll 4
    for (int64_t j = begin + threadIdx.x % 32; j < end; j += 32) {
      const uint64_t r = rank_of(x[j], j);
      if (r < least) continue;
      const uint32_t place = atomicAdd(&s.n_found, 1u);
      if (place < kSortShared) s.sorted[place] = r;
    }
  }
  __syncthreads();
  const uint32_t n_found = s.n_found;
  __syncthreads();
  if (n_found > kSortShared) return nullptr;
  for (m = 2; m < n_found;) m *= 2;
  sort_falling(s.sorted, m);
  return s.sorted;
}
#endif

}  // namespace mica::cuda
