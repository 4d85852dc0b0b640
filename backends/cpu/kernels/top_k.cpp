// top_k: the indices of the k largest elements of each row.
#include "backends/cpu/kernels/elements.h"
#include "backends/cpu/kernels/select.h"
#include "ops/top_k_args.h"

MICA_CPU_BEGIN
namespace {

int64_t items(const Call& call, uint32_t) { return rows_of(call.in[0]); }
int64_t grain(const Call& call, uint32_t) { return rows_grain(call.in[0].dim[0]); }
uint64_t scratch(const Call& call) { return static_cast<uint64_t>(call.out.dim[0]) * 8; }

void run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch_bytes) {
  const Tensor& x = call.in[0];
  const int64_t k = static_cast<const mica_top_k_args*>(call.args)->k;
  uint64_t* ranks = reinterpret_cast<uint64_t*>(scratch_bytes);
  for (int64_t row = first; row < end; ++row) {
    select_largest(reinterpret_cast<const float*>(row_at(x, row)), x.dim[0], k, ranks);
    int32_t* out = reinterpret_cast<int32_t*>(row_at(call.out, row));
    for (int64_t i = 0; i < k; ++i) out[i] = index_of(ranks[i]);
  }
}

constexpr Kernel kRows[] = {
    {"top_k", "", 1, nullptr, numerics_exact, nullptr, scratch, items, run, grain},
};

}  // namespace
MICA_CPU_KERNELS(top_k, kRows, MICA_KNOWS(top_k, k))
MICA_CPU_END
