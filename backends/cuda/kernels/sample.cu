// sample: a token of each row by temperature, top-k, top-p and min-p (the rule: ops/sample.h). Only
// as many tokens are put in order as the answer needs: it is nearly always among the first few.
// Many blocks look through all logits first (select_runs.cuh), then one block a row answers.
#include "backends/cuda/kernels/select_runs.cuh"
#include "ops/philox.h"

namespace mica::cuda {
namespace {

constexpr uint32_t kFirstTry = 256;

struct SampleArgs {
  Tensor logits;
  uint64_t params, keys, out, room;
  uint32_t room_each;
  Runs runs;
};

struct Row {
  const float* logits;
  int64_t index;     // of the step's rows
  int64_t n;         // of the vocabulary
  uint32_t n_valid;  // without NaN and -infinity
  double top;        // the largest logit
  double temperature, top_k, top_p, min_p;
  double u;  // in (0, 1)
  const uint64_t* ranks;

  __device__ double logit(uint32_t i) const {
    return static_cast<double>(logits[index_of(ranks[i])]);
  }
  __device__ double e(uint32_t i) const { return exp(logit(i) - top); }
  __device__ double w(uint32_t i) const { return exp((logit(i) - top) / temperature); }
};

struct SampleShared {
  SelectShared select;
  uint64_t scratch[32];
  double sums[kSelectThreads];
  uint32_t first;
};

__device__ uint32_t sum32(uint32_t a, uint32_t b) { return a + b; }
__device__ double sum64(double a, double b) { return a + b; }

// The sum of exp((logit - top) / divisor) over the vocabulary.
__device__ double sum_all(const Row& row, double divisor, SampleShared& s) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < row.n; i += kSelectThreads) {
    const float v = row.logits[i];
    if (is_valid(v)) sum += exp((static_cast<double>(v) - row.top) / divisor);
  }
  return reduce_block(sum, reinterpret_cast<double*>(s.scratch), sum64);
}

// The first i in [0, n) at which the running sum of term(i) reaches `wanted` (passes it, when
// `above`); n when none does. The sum of all: out_all. Each thread sums a run of neighbours.
template <class Term>
__device__ uint32_t first_at(uint32_t n, double wanted, bool above, SampleShared& s, Term term,
                             double* out_all) {
  const uint32_t each = (n + kSelectThreads - 1) / kSelectThreads;
  const uint32_t begin = min(n, threadIdx.x * each);
  const uint32_t end = min(n, begin + each);
  double mine = 0;
  for (uint32_t i = begin; i < end; ++i) mine += term(i);
  s.sums[threadIdx.x] = mine;
  if (threadIdx.x == 0) s.first = n;
  __syncthreads();
  // Sums up to each thread's end, in order.
  for (uint32_t offset = 1; offset < kSelectThreads; offset *= 2) {
    const double other = threadIdx.x >= offset ? s.sums[threadIdx.x - offset] : 0;
    __syncthreads();
    s.sums[threadIdx.x] += other;
    __syncthreads();
  }
  if (out_all != nullptr) *out_all = s.sums[kSelectThreads - 1];
  const double before = threadIdx.x == 0 ? 0 : s.sums[threadIdx.x - 1];
  const auto reached = [&](double sum) { return above ? sum > wanted : !(sum < wanted); };
  if (begin < end && reached(s.sums[threadIdx.x]) && (threadIdx.x == 0 || !reached(before))) {
    double sum = before;
    uint32_t i = begin;
    for (; i + 1 < end; ++i) {
      sum += term(i);
      if (reached(sum)) break;
    }
    atomicMin(&s.first, i);
  }
  __syncthreads();
  const uint32_t first = s.first;
  __syncthreads();
  return first;
}

// How many of the `limit` tokens that top-k leaves also pass top-p and min-p, when `known` of them
// are in order; -1: more must be.
__device__ int64_t count_kept(const Row& row, uint32_t limit, uint32_t known, SampleShared& s) {
  int64_t kept = limit;
  const auto e = [&](uint32_t i) { return row.e(i); };
  if (row.top_p < 1) {
    double all = 0;
    if (limit == row.n_valid) {
      all = sum_all(row, 1.0, s);
    } else {
      first_at(limit, 0, true, s, e, &all);
    }
    const uint32_t last = first_at(known, row.top_p * all, false, s, e, nullptr);
    kept = last < known ? int64_t{last} + 1 : known < limit ? int64_t{-1} : int64_t{limit};
  }
  if (row.min_p > 0) {
    // The first that is too small; e falls.
    uint32_t first = known;
    for (uint32_t i = threadIdx.x; i < known; i += kSelectThreads)
      if (i > 0 && !(row.e(i) >= row.min_p)) first = min(first, i);
    if (threadIdx.x == 0) s.first = known;
    __syncthreads();
    atomicMin(&s.first, first);
    __syncthreads();
    first = s.first;
    __syncthreads();
    if (first < known) {
      kept = kept < 0 ? first : min(kept, int64_t{first});
    } else if (known < limit && kept > known) {
      kept = -1;
    }
  }
  return kept;
}

// The place in order at which the running sum of weights passes u times that of all kept; -1: more
// must be in order.
__device__ int64_t draw(const Row& row, uint32_t kept, uint32_t known, SampleShared& s) {
  const auto w = [&](uint32_t i) { return row.w(i); };
  double all = 0;
  if (kept > known) {
    if (kept != row.n_valid) return -1;
    all = sum_all(row, row.temperature, s);
  } else {
    first_at(kept, 0, true, s, w, &all);
  }
  const uint32_t n = min(kept, known);
  const uint32_t first = first_at(n, row.u * all, true, s, w, nullptr);
  if (first < n) return first;
  return kept > known ? -1 : int64_t{kept} - 1;
}

__device__ int32_t choose(Row& row, const Runs& runs, uint64_t* room, SampleShared& s) {
  uint64_t best = 0;
  uint32_t n_valid = 0;
  if (threadIdx.x < runs.n_runs) {
    const int64_t at = row.index * runs.n_runs + threadIdx.x;
    best = reinterpret_cast<const uint64_t*>(runs.tops)[at];
    n_valid = reinterpret_cast<const uint32_t*>(runs.counts)[at];
  }
  best = reduce_block(best, s.scratch, larger);
  row.n_valid = reduce_block(n_valid, reinterpret_cast<uint32_t*>(s.scratch), sum32);
  if (row.n_valid == 0) return 0;
  if (!(row.temperature > 0)) return index_of(best);
  row.top = static_cast<double>(row.logits[index_of(best)]);
  if (row.top == static_cast<double>(infinity())) return index_of(best);
  uint32_t limit = row.n_valid;
  if (row.top_k >= 1 && row.top_k < static_cast<double>(limit))
    limit = static_cast<uint32_t>(row.top_k);
  uint32_t known = limit < row.n_valid ? limit : min(limit, kFirstTry);
  for (;; known = min(limit, known * 8)) {
    row.ranks = select_from_runs(row.logits, row.n, known, runs, row.index, s.select);
    if (row.ranks == nullptr) row.ranks = select_sorted(row.logits, row.n, known, room, s.select);
    const int64_t kept = count_kept(row, limit, known, s);
    const int64_t chosen = kept >= 0 ? draw(row, static_cast<uint32_t>(kept), known, s) : -1;
    if (chosen >= 0) return index_of(row.ranks[chosen]);
    if (known == limit) return index_of(best);  // unreachable: all are in order
  }
}

__device__ double uniform(const int32_t* key) {
  const auto word = [&](int i) { return static_cast<uint32_t>(key[i]); };
  const mica_philox_bits counter = {word(3), word(2), 0, 0};
  const mica_philox_bits random = mica_philox4x32_10(counter, word(0), word(1));
  return (static_cast<double>(random.x) + 0.5) / 4294967296.0;
}

// A warp a run; grid: (of a row, rows).
__global__ void __launch_bounds__(kRunThreads) runs_kernel(const __grid_constant__ SampleArgs a) {
  wait_for_inputs();
  start_next();
  const int64_t n_rows = live_rows(a.logits);
  const uint32_t run = blockIdx.x * (kRunThreads / 32) + threadIdx.x / 32;
  if (run >= a.runs.n_runs) return;
  for (int64_t row = blockIdx.y; row < n_rows; row += gridDim.y) {
    const auto* x = reinterpret_cast<const float*>(a.logits.address + row * a.logits.stride[1]);
    find_run(x, a.logits.dim[0], a.runs, row, run);
  }
}

// A block of threads a row.
__global__ void __launch_bounds__(kSelectThreads)
    sample_kernel(const __grid_constant__ SampleArgs a) {
  __shared__ SampleShared shared;
  wait_for_inputs();
  start_next();
  const int64_t n_rows = live_rows(a.logits);
  uint64_t* room =
      reinterpret_cast<uint64_t*>(a.room) + static_cast<uint64_t>(blockIdx.x) * a.room_each;
  for (int64_t i = blockIdx.x; i < n_rows; i += gridDim.x) {
    const float* p = reinterpret_cast<const float*>(a.params) + 4 * i;
    Row row = {};
    row.logits = reinterpret_cast<const float*>(a.logits.address + i * a.logits.stride[1]);
    row.index = i;
    row.n = a.logits.dim[0];
    row.temperature = static_cast<double>(p[0]);
    row.top_k = static_cast<double>(p[1]);
    row.top_p = static_cast<double>(p[2]);
    row.min_p = static_cast<double>(p[3]);
    row.u = uniform(reinterpret_cast<const int32_t*>(a.keys) + 4 * i);
    const int32_t chosen = choose(row, a.runs, room, shared);
    if (threadIdx.x == 0) reinterpret_cast<int32_t*>(a.out)[i] = chosen;
    __syncthreads();
  }
}

uint32_t room_each(const Call& call) {
  const uint32_t m = sort_room(call.in[0].dim[0]);
  return m <= kSortShared ? 0 : m;
}
dim3 grid_of(const Call& call) {
  const int64_t rows = call.in[0].dim[1];
  return grid_for(call, room_each(call) != 0 && rows > 32 ? 32 : rows, 2);
}
uint64_t room_bytes(const Call& call) { return uint64_t{room_each(call)} * 8 * grid_of(call).x; }
uint64_t workspace(const Call& call) {
  return room_bytes(call) + runs_bytes(runs_of(call.in[0].dim[0]), call.in[0].dim[1]);
}

mica_status record(const Call& call, Recorder& recorder) {
  SampleArgs a = {call.in[0],     call.in[1].address, call.in[2].address,        call.out.address,
                  call.workspace, room_each(call),    runs_of(call.in[0].dim[0])};
  const int64_t n_rows = a.logits.dim[1];
  place_runs(a.runs, call.workspace + room_bytes(call), n_rows);
  constexpr uint32_t kRunsOfBlock = kRunThreads / 32;
  const dim3 grid((a.runs.n_runs + kRunsOfBlock - 1) / kRunsOfBlock,
                  static_cast<unsigned>(n_rows < 32768 ? n_rows : 32768));
  const mica_status status = launch(recorder, runs_kernel, grid, dim3(kRunThreads), 0, a);
  if (status != MICA_OK) return status;
  return launch(recorder, sample_kernel, grid_of(call), dim3(kSelectThreads), 0, a);
}

constexpr Kernel kRows[] = {{"sample", "", nullptr, numerics_exact, workspace, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(sample, kRows)
