// What attention's kernels are given: one call's tensors and how its work is to be cut.
#pragma once
#include "backends/cuda/kernels/plain_rows.cuh"
#include "backends/cuda/kv.h"
#include "mica/kv_cache.h"
#include "ops/attention/attention_args.h"
#include "ops/rope.h"

namespace mica::cuda {

struct AttentionArgs {
  KvPage k, v;
  uint64_t k_state, v_state;
  uint64_t q, positions, table, mask, sinks, turns, out;
  uint64_t parts;    // of chunks: [slot][rows of a tile] sums [dim_v_pad], largest, denominator
  uint64_t tickets;  // u32 by a tile's first slot: how many of its chunks are there
  uint64_t live;     // of the tokens
  int64_t q_stride1, q_stride2;        // bytes
  int64_t mask_stride1, mask_stride2;  // bytes
  mica_dtype q_dtype, mask_dtype;
  int32_t dim_k, dim_v, dim_v_pad;
  int32_t n_tokens, n_heads, n_kv_heads, group;
  int32_t n_pages, n_table_words, n_mask_columns;
  int32_t n_turns;  // 0: queries are never rotated
  int32_t tile_rows;
  int32_t target_items;  // wanted, and not exceeded where possible; 0: never cut
  int32_t deep_chunks;   // times as many where there is much to do, so that all end together
  int32_t entry_units;   // of a table entry
  int32_t whole_units;   // of a sequence: so few are never cut
  int32_t least_units;   // of a chunk
  bool q_wide;           // F32 that 16-byte loads may read
  bool out_wide;         // 16-byte stores may write it
  bool constant;         // table, positions and live count: no kernel of the step writes them
  mica_attention_args op;
};

// How a kernel wants its work cut.
struct CutRule {
  int32_t tile_rows, target_items, deep_chunks, entry_units, whole_units, least_units;
};

// Entries are cut where there are fewer tiles (of all kv heads) than this.
MICA_HD int32_t cut_below(int32_t target_items, int32_t deep_chunks) {
  return deep_chunks > 1 ? 2 * target_items : target_items;
}
// Items that keep a partial result are fewer than this: chunks wanted, and one more a tile.
MICA_HD int32_t max_slots(int32_t target_items, int32_t deep_chunks) {
  return target_items * deep_chunks + cut_below(target_items, deep_chunks);
}
inline int64_t max_slots(const AttentionArgs& a) {
  return max_slots(a.target_items, a.deep_chunks);
}
inline int64_t slot_floats(const AttentionArgs& a) {
  return int64_t{a.tile_rows} * (a.dim_v_pad + 2);
}

inline bool attention_args(const Call& call, const CutRule& rule, AttentionArgs& out) {
  const Tensor& q = call.in[MICA_ATTENTION_Q];
  const Tensor& k = call.in[MICA_ATTENTION_K];
  const Tensor& v = call.in[MICA_ATTENTION_V];
  const Tensor& mask = call.in[MICA_ATTENTION_MASK];
  AttentionArgs a = {};
  const auto u32 = [](int64_t x) { return static_cast<uint32_t>(x); };
  const auto i32 = [](int64_t x) { return static_cast<int32_t>(x); };
  if (!kv_page(k.dtype, u32(k.dim[0]), u32(k.dim[1]), a.k)) return false;
  if (!kv_page(v.dtype, u32(v.dim[0]), u32(v.dim[1]), a.v)) return false;
  a.k_state = k.address;
  a.v_state = v.address;
  a.q = q.address;
  a.positions = call.in[MICA_ATTENTION_POSITIONS].address;
  a.table = call.in[MICA_ATTENTION_TABLE].address;
  a.mask = mask.absent() ? 0 : mask.address;
  a.sinks = call.in[MICA_ATTENTION_SINKS].absent() ? 0 : call.in[MICA_ATTENTION_SINKS].address;
  const Tensor& turns = call.in[MICA_ATTENTION_TURNS];
  a.turns = turns.absent() ? 0 : turns.address;
  a.n_turns = turns.absent() ? 0 : i32(turns.dim[1]);
  a.out = call.out.address;
  a.parts = call.workspace;
  a.live = q.live;
  a.q_stride1 = q.stride[1];
  a.q_stride2 = q.stride[2];
  a.mask_stride1 = mask.stride[1];
  a.mask_stride2 = mask.dim[2] == 1 ? 0 : mask.stride[2];
  a.q_dtype = q.dtype;
  a.mask_dtype = mask.dtype;
  a.dim_k = i32(q.dim[0]);
  a.dim_v = i32(v.dim[0]);
  a.dim_v_pad = (a.dim_v + 15) / 16 * 16;
  a.n_tokens = i32(q.dim[2]);
  a.n_heads = i32(q.dim[1]);
  a.n_kv_heads = i32(k.dim[1]);
  a.group = a.n_heads / a.n_kv_heads;
  const int64_t cells = k.dim[2] < v.dim[2] ? k.dim[2] : v.dim[2];
  a.n_pages = i32(cells / kPageCells);
  a.n_table_words = i32(call.in[MICA_ATTENTION_TABLE].dim[0]);
  a.n_mask_columns = a.mask != 0 ? i32(mask.dim[0]) : 0;
  a.tile_rows = rule.tile_rows;
  a.target_items = rule.target_items;
  while (max_slots(a.target_items, rule.deep_chunks) > kTickets) a.target_items /= 2;
  a.deep_chunks = rule.deep_chunks;
  a.entry_units = rule.entry_units;
  a.whole_units = rule.whole_units;
  a.least_units = rule.least_units;
  a.tickets = device_of(call).tickets;
  // Step inputs of I32 are no op's to write.
  a.constant = call.in[MICA_ATTENTION_TABLE].storage == MICA_B_STEP &&
               call.in[MICA_ATTENTION_POSITIONS].storage == MICA_B_STEP;
  const int64_t place = static_cast<int64_t>(q.address) | q.stride[1] | q.stride[2];
  a.q_wide = q.dtype == MICA_F32 && place % 16 == 0 && q.dim[0] % 4 == 0;
  a.out_wide = a.out % 16 == 0 && a.dim_v % 4 == 0;
  a.op = call.arg<mica_attention_args>();
  out = a;
  return true;
}

}  // namespace mica::cuda
