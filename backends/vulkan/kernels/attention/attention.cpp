// attention over the paged KV cache. Three dispatches: sequences with many tokens in the step go
// through tiles of query rows; those with few are split, their entries cut in chunks, so that one
// token's past is read by the whole device; then the chunks' results are merged. Grids and
// workspace are sized by maxima; who does what is read from the table (attention_units.glsl).
#include <algorithm>

#include "backends/gpu/layouts.h"
#include "backends/vulkan/kernels/attention/attention_params.h"
#include "backends/vulkan/kernels/common/launch.h"
#include "backends/vulkan/kernels/common/paths.h"
#include "backends/vulkan/kv.h"
#include "mica/kv_table.h"
#include "ops/attention/attention_args.h"
#include "ops/rope.h"

MICA_VULKAN_SHADER(attention_naive)
MICA_VULKAN_SHADER(attention_split)
MICA_VULKAN_SHADER(attention_merge)
MICA_VULKAN_SHADER(attention_tile)
MICA_VULKAN_SHADER(attention_coop)
MICA_VULKAN_SHADER(attention_coop_plain)

namespace mica::vulkan {
namespace {

constexpr uint32_t kSplitRows = 16;  // a sequence with at most so many rows in a step is split
constexpr uint32_t kSplitThreads = 128;
constexpr uint32_t kMergeThreads = 64;
constexpr uint32_t kNaiveThreads = 64;    // a cell of a page each
constexpr uint32_t kSharedBytes = 32768;  // every Vulkan device has 16 KiB, all that are used this
constexpr int64_t kMostDim = 256;         // of a head, but for the naive variant
constexpr int64_t kMostNaiveDim = 4096;
constexpr uint32_t kMostCoopDim = 128;  // what a subgroup's registers hold

// What is left of the push constants is for operands that are still to come.
static_assert(sizeof(AttentionPush) <= 64 && sizeof(AttentionMergePush) <= 64);

// Specialization constants in the order of their numbers. Each shader reads those that it declares
// (attention_common.glsl, attention_units.glsl, and its own file).
struct AttentionSpecs {
  uint32_t threads, threads_y = 1, threads_z = 1;
  uint32_t dim_k, dim_v, group, dtype_k, dtype_v, dtype_q, flags;
  uint32_t unit_rows = 0, split_tokens = 0, chunks = 0, lanes_k = 0, lanes_v = 0;
  uint32_t step = 0, batch = 0;               // of the split kernel
  uint32_t thread_rows = 0, tile_step_v = 0;  // of tiles in plain arithmetic
};

// Who multiplies tiles.
enum class Units { kPlain, kFragments, kMatrix };

// How a call is cut.
struct Cut {
  Units units;
  KvPage k, v;
  uint32_t dim_k, dim_v, n_heads, n_kv_heads, group, n_tokens, max_seqs, max_entries;
  uint32_t split_tokens;  // of a sequence that is split, at most
  uint32_t split_rows;    // of a unit
  uint32_t chunks;        // wanted of a step
  uint32_t step;          // cells at once
  uint32_t batch;         // loads in flight
  uint64_t split_units;
  bool has_tiles;
  uint32_t tile_rows, tile_thread_rows, tile_step_v;
  uint64_t tiles;
};

uint64_t div_up(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

// Where invocations are not many and compiling is slow: a driver on the CPU.
bool is_small(const DeviceCaps& caps) {
  return caps.subgroup_size <= 16 && caps.max_shared_bytes <= 32768;
}

uint32_t split_shared_bytes(const Cut& c, uint32_t step) {
  const uint32_t quads = c.split_rows / 4, lanes = c.k.row_elems / 8;
  const uint32_t pool = std::max(step * (lanes + 1) * quads, 4 * kSplitThreads);
  return pool * 16 + step * quads * 16 + c.split_rows * lanes * 32 + quads * 160 +
         c.split_rows * 20 + kSplitThreads * 8 + 64;
}

void cut_split(const DeviceCaps& caps, Cut& c) {
  c.split_tokens = std::max(1u, kSplitRows / c.group);
  c.split_rows = std::min(kSplitRows, (c.group + 3) / 4 * 4);
  c.step = 64;
  while (c.step > 8 && split_shared_bytes(c, c.step) > kSharedBytes) c.step /= 2;
  c.batch = is_small(caps) ? 2 : 8;
  const uint32_t cores = caps.n_cores != 0 ? caps.n_cores : 16;
  c.chunks = std::clamp<uint32_t>(static_cast<uint32_t>(div_up(2 * cores, c.n_kv_heads)), 4, 256);
  const uint32_t n_seqs = std::min(c.max_seqs, c.n_tokens);
  const uint64_t row_units =
      div_up(uint64_t{std::min(c.split_tokens, c.n_tokens)} * c.group, c.split_rows);
  c.split_units = row_units * (std::min(c.chunks, c.max_entries) + (n_seqs > 1 ? n_seqs : 0));
  c.split_units = std::max<uint64_t>(c.split_units, row_units);
}

void cut_tiles(const DeviceCaps& caps, Cut& c) {
  const bool small = is_small(caps);
  c.tile_rows = small ? 16 : c.dim_v > 128 ? 32 : 64;
  if (c.units != Units::kPlain) c.tile_rows = c.units == Units::kMatrix ? 64 : 32;
  c.tile_thread_rows = small || c.dim_v > 128 ? 4 : 8;
  c.tile_step_v = c.dim_v > 192 ? 8 : 16;
  const uint32_t n_seqs = std::min(c.max_seqs, c.n_tokens / (c.split_tokens + 1));
  c.tiles = div_up(uint64_t{c.n_tokens} * c.group, c.tile_rows) + (n_seqs > 1 ? n_seqs : 0);
  c.has_tiles = c.n_tokens > c.split_tokens;
}

// nullptr, or why it cannot be cut.
const char* cut_of(const Call& call, Cut& c, Units units = Units::kPlain) {
  c.units = units;
  const Tensor& q = call.in[MICA_ATTENTION_Q];
  const Tensor& k = call.in[MICA_ATTENTION_K];
  const Tensor& v = call.in[MICA_ATTENTION_V];
  if (k.layout != kLayoutKvPage || v.layout != kLayoutKvPage) return "K or V is not of a cache";
  if (!kv_page(k.dtype, k.dim[0], k.dim[1], c.k) || !kv_page(v.dtype, v.dim[0], v.dim[1], c.v))
    return kPageTypes;
  if (c.k.head_bytes > INT32_MAX || c.v.head_bytes > INT32_MAX) return "heads are too large";
  const auto& args = call.arg<mica_attention_args>();
  if (args.max_seqs > kFoldGroups || q.dim[2] > kFoldGroups || q.dim[1] > kFoldGroups)
    return "more than 65535 sequences, tokens or heads";
  c.dim_k = static_cast<uint32_t>(k.dim[0]);
  c.dim_v = static_cast<uint32_t>(v.dim[0]);
  c.n_heads = static_cast<uint32_t>(q.dim[1]);
  c.n_kv_heads = static_cast<uint32_t>(k.dim[1]);
  c.group = c.n_heads / c.n_kv_heads;
  c.n_tokens = static_cast<uint32_t>(q.dim[2]);
  c.max_seqs = args.max_seqs;
  const int64_t words =
      call.in[MICA_ATTENTION_TABLE].dim[0] - MICA_KV_TABLE_ENTRIES(int64_t{args.max_seqs});
  if (words < 0 || words > INT32_MAX) return "the table is too large";
  c.max_entries = static_cast<uint32_t>(words / MICA_KV_ENTRY_WORDS);
  cut_split(caps_of(call), c);
  cut_tiles(caps_of(call), c);
  if (c.split_units > kFoldGroups || c.tiles > kFoldGroups) return "too many sequences and tokens";
  return nullptr;
}

const char* strides_fit(const Call& call) {
  const Tensor& q = call.in[MICA_ATTENTION_Q];
  const Tensor& mask = call.in[MICA_ATTENTION_MASK];
  if (q.stride[1] > UINT32_MAX || q.stride[2] > UINT32_MAX) return "q has rows 4 GiB apart";
  if (!mask.absent() &&
      (mask.stride[1] > UINT32_MAX || mask.stride[2] > UINT32_MAX || mask.dim[0] > UINT32_MAX))
    return "the mask has rows 4 GiB apart";
  if (call.in[MICA_ATTENTION_TURNS].dim[1] > UINT32_MAX) return "more than 2^32 turns";
  return nullptr;
}

const char* supports_naive(const Call& call) {
  Cut c;
  if (const char* why = cut_of(call, c); why != nullptr) return why;
  if (call.in[MICA_ATTENTION_V].dim[0] > kMostNaiveDim) return "heads of more than 4096 elements";
  return strides_fit(call);
}

const char* supports(const Call& call) {
  Cut c;
  if (const char* why = cut_of(call, c); why != nullptr) return why;
  if (c.dim_k > kMostDim || c.dim_v > kMostDim) return "heads of more than 256 elements";
  return strides_fit(call);
}

// Of keys that are stored un-rotated: can each lane of 8 elements of K have both elements of its
// pairs, and their angles be loaded by fours (attention_keys.glsl)?
bool lanes_have_pairs(const Call& call) {
  const auto& args = call.arg<mica_attention_args>();
  const uint32_t unit = args.rope_pairing == MICA_ROPE_HALF_SPLIT ? 8 : 4;
  return args.n_rot % unit == 0 && args.rope_offset % 4 == 0 &&
         call.in[MICA_ATTENTION_TURNS].address % 16 == 0;
}

bool rotates_keys(const Call& call) {
  return !call.in[MICA_ATTENTION_TURNS].absent() && call.arg<mica_attention_args>().rope_keys != 0;
}

// As attention_coop.glsl has it.
uint32_t coop_shared_bytes(const Cut& c, bool rotates) {
  const uint32_t pitch_k = (c.dim_k + 15) / 16 * 2 + 1, pitch_v = (c.dim_v + 15) / 16 * 2 + 1;
  const uint32_t pool_k = std::max(64 * pitch_k, 17 * c.tile_rows);
  const uint32_t pool_v = std::max(64 * pitch_v, pitch_k * (rotates ? 64 : c.tile_rows));
  return (pool_k + pool_v) * 16 + c.tile_rows * 16 + 16;
}

Units matrix_units(const DeviceCaps& caps) {
  constexpr uint32_t kCoopSharedBytes = 40960;
  if (caps.plain_fragments) return Units::kFragments;
  const bool can = has_matrix_units(caps, kCoopSharedBytes) && shader_attention_coop.n_words != 0;
  return can ? Units::kMatrix : Units::kPlain;
}

const char* supports_coop(const Call& call) {
  const Units units = matrix_units(caps_of(call));
  if (units == Units::kPlain) return "the device has no matrix units";
  Cut c;
  if (const char* why = cut_of(call, c, units); why != nullptr) return why;
  if (!c.has_tiles) return "no sequence has many tokens";
  if (coop_shared_bytes(c, rotates_keys(call)) > caps_of(call).max_shared_bytes)
    return "heads fill the shared memory";
  if (c.dim_k > kMostCoopDim || c.dim_v > kMostCoopDim) return "heads of more than 128 elements";
  if (!call.in[MICA_ATTENTION_MASK].absent()) return "there is a mask";
  if (call.in[MICA_ATTENTION_K].dtype != MICA_F16 || call.in[MICA_ATTENTION_V].dtype != MICA_F16)
    return "K or V is not F16";
  if (rotates_keys(call) && !lanes_have_pairs(call)) return "pairs of K's elements are not aligned";
  return strides_fit(call);
}

uint32_t numerics(const Call&) { return MICA_NUM_F32; }

uint64_t workspace(const Call& call) {
  Cut c;
  if (cut_of(call, c) != nullptr) return 0;
  return c.split_units * c.n_kv_heads * c.split_rows * (c.dim_v + 2) * 4;
}

uint32_t flags_of(const Call& call) {
  const auto& args = call.arg<mica_attention_args>();
  const Tensor& mask = call.in[MICA_ATTENTION_MASK];
  uint32_t flags = args.causal != 0 ? kCausal : 0u;
  if (args.window != 0) flags |= kWindow;
  if (!mask.absent()) {
    flags |= kMasked;
    if (mask.dtype == MICA_F16) flags |= kMaskF16;
    if (mask.dim[2] > 1) flags |= kMaskHeads;
  }
  if (!call.in[MICA_ATTENTION_SINKS].absent()) flags |= kHasSinks;
  if (args.softcap > 0) flags |= kSoftcap;
  if (args.max_seqs > 1) flags |= kManySeqs;
  if (call.in[MICA_ATTENTION_TURNS].absent()) return flags;
  if (!rotates_keys(call)) return flags | kTurns;
  if (!lanes_have_pairs(call)) return flags | kRotatesKeys | kKeysApart;
  if (args.rope_pairing == MICA_ROPE_HALF_SPLIT) flags |= kKeyHalves;
  return flags | kRotatesKeys;
}

AttentionParams params_of(const Call& call, const Cut& c) {
  const auto& args = call.arg<mica_attention_args>();
  const Tensor& q = call.in[MICA_ATTENTION_Q];
  const Tensor& mask = call.in[MICA_ATTENTION_MASK];
  AttentionParams p{};
  p.sinks = call.in[MICA_ATTENTION_SINKS].absent() ? 0 : call.in[MICA_ATTENTION_SINKS].address;
  p.scale = args.scale;
  p.softcap = args.softcap;
  p.window = args.window;
  p.n_first = args.n_first;
  p.max_seqs = c.max_seqs;
  p.n_tokens = c.n_tokens;
  p.max_entries = c.max_entries;
  p.n_pages = static_cast<uint32_t>(call.in[MICA_ATTENTION_K].dim[2] / kPageCells);
  p.n_split_units = static_cast<uint32_t>(c.split_units);
  p.s_q_head = static_cast<uint32_t>(q.stride[1]);
  p.s_q_token = static_cast<uint32_t>(q.stride[2]);
  if (const Tensor& turns = call.in[MICA_ATTENTION_TURNS]; !turns.absent()) {
    p.turns = turns.address;
    p.max_turns = static_cast<uint32_t>(turns.dim[1]);
    p.n_rot = args.n_rot;
    p.rope_offset = args.rope_offset;
    p.rope_pairing = args.rope_pairing;
  }
  if (mask.absent()) return p;
  p.mask = mask.address;
  p.mask_columns = static_cast<uint32_t>(mask.dim[0]);
  p.s_mask_token = static_cast<uint32_t>(mask.stride[1]);
  p.s_mask_head = static_cast<uint32_t>(mask.stride[2]);
  return p;
}

// `result` is the op's.
mica_status push_of(const Call& call, const Cut& c, Recorder& recorder, AttentionPush& out) {
  const AttentionParams params = params_of(call, c);
  out = {};
  out.q = call.in[MICA_ATTENTION_Q].address;
  out.k = call.in[MICA_ATTENTION_K].address;
  out.v = call.in[MICA_ATTENTION_V].address;
  out.positions = call.in[MICA_ATTENTION_POSITIONS].address;
  out.table = call.in[MICA_ATTENTION_TABLE].address;
  out.live = call.in[MICA_ATTENTION_Q].live;
  out.result = call.out.address;
  return constants(recorder, &params, sizeof params, out.params);
}

// What all shaders read, and how their units are cut.
AttentionSpecs specs_of(const Call& call, const Cut& c, uint32_t threads, uint32_t unit_rows) {
  return {.threads = threads,
          .dim_k = c.dim_k,
          .dim_v = c.dim_v,
          .group = c.group,
          .dtype_k = static_cast<uint32_t>(call.in[MICA_ATTENTION_K].dtype),
          .dtype_v = static_cast<uint32_t>(call.in[MICA_ATTENTION_V].dtype),
          .dtype_q = static_cast<uint32_t>(call.in[MICA_ATTENTION_Q].dtype),
          .flags = flags_of(call),
          .unit_rows = unit_rows,
          .split_tokens = c.split_tokens,
          .chunks = c.chunks,
          .lanes_k = c.k.row_elems / 8,
          .lanes_v = c.v.row_elems / 8};
}

mica_status record_naive(const Call& call, Recorder& recorder) {
  Cut c;
  (void)cut_of(call, c);
  AttentionPush push;
  MICA_TRY(push_of(call, c, recorder, push));
  return launch(recorder, shader_attention_naive, specs_of(call, c, kNaiveThreads, 0), push,
                Groups{c.n_heads, c.n_tokens, 1});
}

mica_status record_tiles(const Call& call, const Cut& c, const AttentionPush& push,
                         Recorder& recorder) {
  const Groups groups{c.n_kv_heads, static_cast<uint32_t>(c.tiles), 1};
  if (c.units != Units::kPlain) {
    const DeviceCaps& caps = caps_of(call);
    const bool plain = c.units == Units::kFragments;
    const uint32_t threads = c.tile_rows / 16 * (plain ? 1 : 32);
    const bool choice = caps.min_subgroup_size != caps.max_subgroup_size;
    return launch(recorder, plain ? shader_attention_coop_plain : shader_attention_coop,
                  specs_of(call, c, threads, c.tile_rows), push, groups, !plain && choice ? 32 : 0);
  }
  AttentionSpecs specs = specs_of(call, c, 16 * c.tile_rows / c.tile_thread_rows, c.tile_rows);
  specs.thread_rows = c.tile_thread_rows;
  specs.tile_step_v = c.tile_step_v;
  return launch(recorder, shader_attention_tile, specs, push, groups);
}

mica_status record_split(const Call& call, const Cut& c, const AttentionPush& push,
                         Recorder& recorder) {
  AttentionSpecs specs = specs_of(call, c, kSplitThreads, c.split_rows);
  specs.step = c.step;
  specs.batch = c.batch;
  AttentionPush partial = push;
  partial.result = call.workspace;
  return launch(recorder, shader_attention_split, specs, partial,
                Groups{c.n_kv_heads, static_cast<uint32_t>(c.split_units), 1});
}

mica_status record_cut(const Call& call, Units units, Recorder& recorder) {
  Cut c;
  (void)cut_of(call, c, units);
  AttentionPush push;
  MICA_TRY(push_of(call, c, recorder, push));
  if (c.has_tiles) MICA_TRY(record_tiles(call, c, push, recorder));
  MICA_TRY(record_split(call, c, push, recorder));
  barrier(recorder);
  const AttentionMergePush merge = {.partial = call.workspace,
                                    .result = push.result,
                                    .table = push.table,
                                    .live = push.live,
                                    .params = push.params};
  return launch(recorder, shader_attention_merge, specs_of(call, c, kMergeThreads, c.split_rows),
                merge, Groups{c.n_heads, c.n_tokens, 1});
}

mica_status record(const Call& call, Recorder& recorder) {
  return record_cut(call, Units::kPlain, recorder);
}
mica_status record_coop(const Call& call, Recorder& recorder) {
  return record_cut(call, matrix_units(caps_of(call)), recorder);
}

constexpr Kernel kKernels[] = {
    {"attention", "coop", supports_coop, numerics, workspace, record_coop,
     gpu::takes_page<kLayoutKvPage>},
    {"attention", "tile", supports, numerics, workspace, record, gpu::takes_page<kLayoutKvPage>},
    {"attention", "naive", supports_naive, numerics, nullptr, record_naive,
     gpu::takes_page<kLayoutKvPage>},
};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(attention, kKernels, MICA_KNOWS(attention, rope_keys))
