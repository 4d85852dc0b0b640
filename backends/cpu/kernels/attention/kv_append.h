// Rows of K or V of a step's tokens to the cells that their slots name.
#pragma once
#include "backends/cpu/kernels/attention/kv_row.h"

MICA_CPU_BEGIN
namespace {

enum AppendInput { kState, kRows, kSlots };

constexpr int64_t kMaxHeadDim = 4096;
static inline bool takes_page(const Call& c, uint32_t operand, uint32_t layout) {
  return c.op == MICA_OP_kv_append && (operand == kState || operand == kOutputOperand) &&
         (layout == kLayoutKPage || layout == kLayoutVPage);
}
static inline bool is_cache(const Call& c) { return takes_page(c, kState, c.in[kState].layout); }
static inline bool state_page(const Call& call, KvPage* out) {
  const Tensor& state = call.in[kState];
  return kv_page(state.dtype, state.layout == kLayoutVPage, state.dim[0], state.dim[1], out);
}

static inline int64_t padded_head(const Call& call) {
  return div_up_i64(call.in[kState].dim[0], 32) * 32;
}

// A row as F32 and encoded.
static inline uint64_t append_scratch_bytes(const Call& call) {
  return static_cast<uint64_t>(padded_head(call)) * 8 + 128;
}

// One head of one token to the cell that the token's slot names; a slot of no cell is skipped.
static inline void append_row(const Call& call, const KvPage& page, int64_t token, int64_t head,
                              mica_dtype dtype, const char* row, char* scratch) {
  const Tensor& state = call.in[kState];
  const Tensor& slots = call.in[kSlots];
  const int64_t slot = *reinterpret_cast<const int32_t*>(slots.data + token * slots.stride[0]);
  if (slot < 0 || slot >= state.dim[2]) return;
  const int64_t n_pad = padded_head(call);
  float* wide = reinterpret_cast<float*>(scratch);
  char* encoded = scratch + n_pad * 4;
  read_row(dtype, row, state.dim[0], n_pad, wide);
  char* to = state.data + slot / kPageCells * page.page_bytes + head * page.head_bytes;
  put_row(page, to, slot % kPageCells, wide, n_pad, encoded);
}

// All tokens of heads [first, end): cells that slots name twice are written in the tokens' order.
static inline void append_heads(const Call& call, const Tensor& rows, int64_t first, int64_t end,
                                char* scratch) {
  KvPage page;
  if (!state_page(call, &page)) return;
  for (int64_t head = first; head < end; ++head) {
    for (int64_t token = 0; token < rows.dim[2]; ++token) {
      append_row(call, page, token, head, rows.dtype,
                 rows.data + token * rows.stride[2] + head * rows.stride[1], scratch);
    }
  }
}

}  // namespace
MICA_CPU_END
