// sample: a token of each row by temperature, top-k, top-p, min-p (the rule: ops/sample.h). Only as
// many tokens are put in order as the answer needs: it is nearly always among the first few.
#include "backends/cpu/kernels/elements.h"
#include "backends/cpu/kernels/select.h"
#include "ops/philox.h"

MICA_CPU_BEGIN
namespace {

constexpr int64_t kFirstTry = 256;

int64_t items(const Call& call, uint32_t) { return call.in[0].dim[1]; }
uint64_t scratch(const Call& call) { return static_cast<uint64_t>(call.in[0].dim[0]) * 8; }

struct Row {
  const float* logits;
  int64_t n;        // of the vocabulary
  int64_t n_valid;  // without NaN and -infinity
  double top;       // the largest logit
  double temperature, top_k, top_p, min_p;
  double u;  // in (0, 1)
  uint64_t* ranks;

  double logit(int64_t i) const { return static_cast<double>(logits[index_of(ranks[i])]); }
  double e(int64_t i) const { return __builtin_exp(logit(i) - top); }
  double w(int64_t i) const { return __builtin_exp((logit(i) - top) / temperature); }
};

void count_valid(Row& row) {
  const f32x16 floor = set1(-__builtin_inff());
  row.n_valid = 0;
  for (int64_t i = 0; i < row.n; i += 16) {
    const int64_t m = min_i64(16, row.n - i);
    const uint32_t lanes = bits(gt(load_n(row.logits + i, m), floor)) & ((1u << m) - 1u);
    row.n_valid += __builtin_popcount(lanes);
  }
}

// The sum of exp((logit - top) * factor) over the vocabulary.
double sum_all(const Row& row, float factor) {
  const f32x16 top = set1(static_cast<float>(row.top)), f = set1(factor);
  const f32x16 floor = set1(-__builtin_inff());
  double sum = 0;
  for (int64_t at = 0; at < row.n; at += kChunk) {
    f32x16 part = zero();
    for (int64_t i = at; i < min_i64(at + kChunk, row.n); i += 16) {
      const int64_t m = min_i64(16, row.n - i);
      const f32x16 v = load_n(row.logits + i, m);
      const mask16 valid = mask_and(gt(v, floor), mask_first(m));
      part = part + select(valid, exp((v - top) * f), zero());
    }
    sum += static_cast<double>(reduce_add(part));
  }
  return sum;
}

// How many of the `limit` tokens that top-k leaves also pass top-p and min-p, when `known` of them
// are in order; -1: more must be.
int64_t count_kept(const Row& row, int64_t limit, int64_t known) {
  if (!(row.top_p < 1) && !(row.min_p > 0)) return limit;
  double mass = 0;
  if (row.top_p < 1) {
    if (limit == row.n_valid) {
      mass = row.top_p * sum_all(row, 1.0f);
    } else {
      for (int64_t i = 0; i < limit; ++i) mass += row.e(i);
      mass *= row.top_p;
    }
  }
  double sum = 0;
  for (int64_t i = 0; i < limit; ++i) {
    if (i == known) return -1;
    const double e = row.e(i);
    if (i > 0 && row.top_p < 1 && !(sum < mass)) return i;
    if (i > 0 && row.min_p > 0 && !(e >= row.min_p)) return i;
    sum += e;
  }
  return limit;
}

// The index in order at which the running sum of weights passes u times that of all kept; -1: more
// must be in order.
int64_t draw(const Row& row, int64_t kept, int64_t known) {
  double all = 0;
  if (kept > known) {
    if (kept != row.n_valid) return -1;
    // Finite, so that it times 0 is 0.
    const double factor = 1.0 / row.temperature;
    all = sum_all(row, factor < 1e38 ? static_cast<float>(factor) : 1e38f);
  } else {
    for (int64_t i = 0; i < kept; ++i) all += row.w(i);
  }
  const double wanted = row.u * all;
  double sum = 0;
  for (int64_t i = 0; i < min_i64(kept, known); ++i) {
    sum += row.w(i);
    if (sum > wanted) return i;
  }
  return kept > known ? -1 : kept - 1;
}

int32_t choose(Row& row) {
  count_valid(row);
  if (row.n_valid == 0) return 0;
  select_largest(row.logits, row.n, 1, row.ranks);
  row.top = row.logit(0);
  if (!(row.temperature > 0) || row.top == __builtin_inf()) return index_of(row.ranks[0]);
  int64_t limit = row.n_valid;
  if (row.top_k >= 1 && row.top_k < static_cast<double>(limit)) {
    limit = static_cast<int64_t>(row.top_k);
  }
  int64_t known = limit < row.n_valid ? limit : min_i64(limit, kFirstTry);
  for (;; known = min_i64(limit, known * 8)) {
    select_largest(row.logits, row.n, known, row.ranks);
    const int64_t kept = count_kept(row, limit, known);
    const int64_t chosen = kept >= 0 ? draw(row, kept, known) : -1;
    if (chosen >= 0) return index_of(row.ranks[chosen]);
    if (known == limit) return index_of(row.ranks[0]);  // unreachable: all are in order
  }
}

double uniform(const int32_t* key) {
  uint32_t words[4];
  __builtin_memcpy(words, key, sizeof words);
  const mica_philox_bits counter = {words[3], words[2], 0, 0};
  const mica_philox_bits random = mica_philox4x32_10(counter, words[0], words[1]);
  return (static_cast<double>(random.x) + 0.5) / 4294967296.0;
}

void run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch_bytes) {
  const Tensor& logits = call.in[0];
  int32_t* out = reinterpret_cast<int32_t*>(call.out.data);
  for (int64_t i = first; i < end; ++i) {
    const float* p = reinterpret_cast<const float*>(call.in[1].data) + 4 * i;
    Row row{};
    row.logits = reinterpret_cast<const float*>(row_at(logits, i));
    row.n = logits.dim[0];
    row.ranks = reinterpret_cast<uint64_t*>(scratch_bytes);
    row.temperature = static_cast<double>(p[0]);
    row.top_k = static_cast<double>(p[1]);
    row.top_p = static_cast<double>(p[2]);
    row.min_p = static_cast<double>(p[3]);
    row.u = uniform(reinterpret_cast<const int32_t*>(call.in[2].data) + 4 * i);
    out[i] = choose(row);
  }
}

constexpr Kernel kRows[] = {
    {"sample", "", 1, nullptr, numerics_f32, nullptr, scratch, items, run, nullptr},
};

}  // namespace
MICA_CPU_KERNELS(sample, kRows)
MICA_CPU_END
