// Appends rows of K or V to their cells: kernels/kv_append.h.
#include "backends/cpu/kernels/attention/kv_append.h"

MICA_CPU_BEGIN

static const char* supports(const Call& call) {
  KvPage page;
  const Tensor& rows = call.in[kRows];
  if (!is_cache(call)) return "the state is not of a cache";
  if (!state_page(call, &page)) return kPageTypes;
  if (page.head_dim > kMaxHeadDim) return "heads of more than 4096 elements";
  if (rows.dtype != MICA_F32 && rows.dtype != MICA_F16 && rows.dtype != MICA_BF16) {
    return "rows must be F32, F16 or BF16";
  }
  if (rows.stride[0] != (rows.dtype == MICA_F32 ? 4 : 2)) {
    return "the elements of a row are not adjacent";
  }
  return nullptr;
}

static uint32_t numerics(const Call&) { return MICA_NUM_EXACT; }

// A kv head: slots that name one cell twice are written in the order of the tokens.
static int64_t items(const Call& call, uint32_t) { return call.in[kState].dim[1]; }

static int64_t grain(const Call& call, uint32_t) {
  const int64_t elements = call.in[kRows].dim[0] * call.in[kRows].dim[2];
  return max_i64(1, 4096 / max_i64(1, elements));
}

static void run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch) {
  append_heads(call, call.in[kRows], first, end, scratch);
}

static constexpr Kernel kKernelRows[] = {
    {"kv_append", "", 1, supports, numerics, nullptr, append_scratch_bytes, items, run, grain,
     nullptr, false, takes_page},
};

MICA_CPU_KERNELS(kv_append, kKernelRows)

MICA_CPU_END
