// The k largest elements of a row, in order: a heap of the best so far, and a vector compare that
// passes over what cannot enter it. Shared by top_k and sample.
#pragma once
#include "backends/cpu/simd/simd.h"

MICA_CPU_BEGIN
namespace {

// An element and its index as one number: larger is better, of equal elements the lower index is,
// NaN is below everything.
MICA_INLINE uint64_t rank_of(float value, int64_t index) {
  uint32_t u = as_bits(value);
  if (u == 0x80000000u) u = 0;  // -0 equals 0
  const bool nan = value != value;
  const uint32_t key = nan ? 0 : (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
  return (static_cast<uint64_t>(key) << 32) | (0xffffffffu - static_cast<uint32_t>(index));
}
MICA_INLINE int32_t index_of(uint64_t rank) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(rank));
}

// heap[0] is the smallest; puts `value` in the hole at i.
inline void sift_down(uint64_t* heap, int64_t n, int64_t i, uint64_t value) {
  for (int64_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
    if (child + 1 < n && heap[child + 1] < heap[child]) ++child;
    if (heap[child] >= value) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = value;
}

// The ranks of the k <= n largest of x[0 … n), largest first.
inline void select_largest(const float* x, int64_t n, int64_t k, uint64_t* heap) {
  for (int64_t i = 0; i < k; ++i) heap[i] = rank_of(x[i], i);
  for (int64_t i = k / 2 - 1; i >= 0; --i) sift_down(heap, k, i, heap[i]);
  for (int64_t i = k; i < n; i += 16) {
    const int64_t m = min_i64(16, n - i);
    // Of an equal element the earlier one is in the heap already. NaN as the limit passes all on.
    const f32x16 limit = set1(x[index_of(heap[0])]);
    uint32_t maybe = ~bits(le(load_n(x + i, m), limit)) & ((1u << m) - 1u);
    for (; maybe != 0; maybe &= maybe - 1) {
      const int64_t j = i + __builtin_ctz(maybe);
      const uint64_t rank = rank_of(x[j], j);
      if (rank > heap[0]) sift_down(heap, k, 0, rank);
    }
  }
  for (int64_t left = k - 1; left > 0; --left) {
    const uint64_t smallest = heap[0];
    sift_down(heap, left, 0, heap[left]);
    heap[left] = smallest;
  }
}

}  // namespace
MICA_CPU_END
