// attention over KV pages. Rows: few query rows a sequence with K and V both in F16 or both in one
// quantized type; tiles of 64 query rows of any kind; the plain one. The first two cut the cells in
// chunks where rows are few, which the same launch merges.
#include "backends/cuda/kernels/attention/attention_decode.cuh"
#include "backends/cuda/kernels/attention/attention_naive.cuh"
#include "backends/cuda/kernels/attention/attention_tile.cuh"
#include "backends/gpu/layouts.h"

namespace mica::cuda {
namespace {

constexpr CutRule kNoCut = {kTileRows, 0, 1, 1, 0, 1};

CutRule tile_rule(const Call& call) { return {kTileRows, 2 * device_of(call).n_sms, 1, 1, 4, 1}; }
bool tile_args(const Call& call, AttentionArgs& out) {
  return attention_args(call, tile_rule(call), out);
}
uint64_t parts_bytes(const AttentionArgs& a) {
  return static_cast<uint64_t>(max_slots(a) * slot_floats(a)) * 4;
}

bool is_f16(const Call& call) {
  return call.in[MICA_ATTENTION_K].dtype == MICA_F16 && call.in[MICA_ATTENTION_V].dtype == MICA_F16;
}
int64_t dim_of(const Call& call) {
  const int64_t k = call.in[MICA_ATTENTION_K].dim[0];
  const int64_t v = call.in[MICA_ATTENTION_V].dim[0];
  const int64_t dim = k > v ? k : v;
  return dim <= 64 ? 64 : dim <= 128 ? 128 : dim <= 256 ? 256 : 0;
}

const char* supports(const Call& call) {
  AttentionArgs a;
  if (!attention_args(call, kNoCut, a))
    return "K and V pages are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 or Q5_1";
  if (call.in[MICA_ATTENTION_K].layout != kLayoutKvPage ||
      call.in[MICA_ATTENTION_V].layout != kLayoutKvPage)
    return "K and V are not a cache of this backend";
  if (a.dim_k > kNaiveMaxDim || a.dim_v > kNaiveMaxDim) return "heads have more than 256 elements";
  return nullptr;
}

// --- Tiles --------------------------------------------------------------------------------------

struct TileVariant {
  void (*kernel)(AttentionArgs);
  uint64_t shared_bytes;
};
template <class Parts>
constexpr TileVariant kTile = {attention_tile_kernel<Parts>, Parts::kBytes};
bool is_unrotated(const Call& call) { return call.arg<mica_attention_args>().rope_keys != 0; }

constexpr uint64_t kTileStatic = sizeof(int32_t) * 2048;  // what the kernel declares itself, up

// Of keys that are rotated when they are read: one more plane of them in F16.
TileVariant unrotated_tile(const Call& call) {
  const int64_t dim = dim_of(call);
  if (!is_f16(call)) return dim <= 128 ? kTile<PartsF32<128, true>> : kTile<PartsF32<256, true>>;
  return dim == 64    ? kTile<PartsF16<64, 2, true>>
         : dim == 128 ? kTile<PartsF16<128, 1, true>>
                      : kTile<PartsF16<256, 1, true>>;
}

TileVariant tile_variant(const Call& call) {
  if (is_unrotated(call)) return unrotated_tile(call);
  const bool f16 = is_f16(call);
  // Of one block four warps would hide too little.
  const auto two_fit = [&](const TileVariant& v) {
    return 2 * (v.shared_bytes + kTileStatic) <= device_of(call).max_shared_bytes;
  };
  switch (dim_of(call)) {
    case 64:
      return f16 ? kTile<PartsF16<64, 2>> : kTile<PartsF32<64>>;
    case 128:
      if (!f16) return kTile<PartsF32<128>>;
      return two_fit(kTile<PartsF16<128, 2>>) ? kTile<PartsF16<128, 2>> : kTile<PartsF16<128, 1>>;
    default:
      return f16 ? kTile<PartsF16<256, 1>> : kTile<PartsF32<256>>;
  }
}

const char* tile_supports(const Call& call) {
  const char* no = supports(call);
  if (no != nullptr) return no;
  if (tile_variant(call).shared_bytes + kTileStatic > device_of(call).max_shared_bytes)
    return "heads are too large for the shared memory of this device";
  return nullptr;
}

uint64_t tile_workspace(const Call& call) {
  AttentionArgs a;
  return tile_args(call, a) ? parts_bytes(a) : 0;
}

mica_status tile_record(const Call& call, Recorder& recorder) {
  AttentionArgs a;
  tile_args(call, a);
  const TileVariant variant = tile_variant(call);
  const int64_t tiles = (int64_t{a.n_tokens} * a.group + kTileRows - 1) / kTileRows;
  const int64_t items = (tiles + a.op.max_seqs) * a.n_kv_heads + max_slots(a);
  return launch(recorder, variant.kernel, grid_for(call, items, 4), dim3(kTileThreads),
                variant.shared_bytes, a);
}

// --- Few rows -----------------------------------------------------------------------------------

constexpr int64_t kDecodeTokens = 64;  // most of a step
constexpr int32_t kWholeEntries = 8;   // so few are not worth a merge
constexpr int32_t kDeepChunks = 3;

struct DecodeVariant {
  void (*kernel)(AttentionArgs);
  uint64_t shared_bytes;
  int32_t warps, blocks;  // of a block; of a multiprocessor
};
template <class Cells, int kWarps>
constexpr DecodeVariant kDecode = {attention_decode_kernel<Cells, kWarps>,
                                   decode_shared_bytes<Cells, kWarps>(), kWarps,
                                   decode_blocks<Cells::kDim, kWarps>()};
// One large block a multiprocessor ends soonest where there are few tiles; several small ones hide
// each other's beginnings and ends where there are many.
template <class Cells>
DecodeVariant decode_of(bool few) {
  return few ? kDecode<Cells, 8> : kDecode<Cells, 4>;
}

template <int kBits>
DecodeVariant decode_of_scaled(int64_t dim, bool few) {
  return dim == 64 ? decode_of<CellsQuant<64, kBits>>(few) : decode_of<CellsQuant<128, kBits>>(few);
}
// Of the types with fifth bits or minima large blocks only: less code, and small blocks, whose
// threads have fewer registers, would spill.
template <int kBits, bool kHasMin>
constexpr DecodeVariant decode_of_rare(int64_t dim) {
  return dim == 64 ? kDecode<CellsQuant<64, kBits, kHasMin>, 8>
                   : kDecode<CellsQuant<128, kBits, kHasMin>, 8>;
}

int32_t decode_rows(const Call& call) {
  const int64_t rows = call.in[MICA_ATTENTION_Q].dim[2] *
                       (call.in[MICA_ATTENTION_Q].dim[1] / call.in[MICA_ATTENTION_K].dim[1]);
  // Slots of partial results are no larger than need be, and start at 16 bytes.
  return rows >= kDecodeRows ? kDecodeRows : static_cast<int32_t>(rows + 3) / 4 * 4;
}

// Of keys that are rotated when they are read: few kernels, which serve few tiles and many, and of
// quantized keys smaller heads too.
DecodeVariant unrotated_decode(mica_dtype dtype, int64_t dim) {
  if (dtype == MICA_F16)
    return dim == 64    ? kDecode<Unrotated<CellsF16<64>>, 8>
           : dim == 128 ? kDecode<Unrotated<CellsF16<128>>, 8>
                        : kDecode<Unrotated<CellsF16<256>>, 4>;
  if (dim == 256) return {};
  switch (dtype) {
    case MICA_Q8_0:
      return kDecode<Unrotated<CellsQuant<128, 8>>, 8>;
    case MICA_Q4_0:
      return kDecode<Unrotated<CellsQuant<128, 4>>, 8>;
    case MICA_Q4_1:
      return kDecode<Unrotated<CellsQuant<128, 4, true>>, 8>;
    case MICA_Q5_0:
      return kDecode<Unrotated<CellsQuant<128, 5>>, 8>;
    case MICA_Q5_1:
      return kDecode<Unrotated<CellsQuant<128, 5, true>>, 8>;
    default:
      return {};
  }
}

// kernel nullptr: there is none.
DecodeVariant decode_variant(const Call& call) {
  const int64_t dim = dim_of(call);
  const mica_dtype dtype = call.in[MICA_ATTENTION_K].dtype;
  if (call.in[MICA_ATTENTION_V].dtype != dtype) return {};
  if (is_unrotated(call)) return unrotated_decode(dtype, dim);
  const int64_t rows = call.in[MICA_ATTENTION_Q].dim[2] *
                       (call.in[MICA_ATTENTION_Q].dim[1] / call.in[MICA_ATTENTION_K].dim[1]);
  const int64_t tiles = (rows + decode_rows(call) - 1) / decode_rows(call);
  const bool few = tiles * call.in[MICA_ATTENTION_K].dim[1] <= device_of(call).n_sms;
  if (dtype == MICA_F16)
    return dim == 64    ? decode_of<CellsF16<64>>(few)
           : dim == 128 ? decode_of<CellsF16<128>>(few)
                        : kDecode<CellsF16<256>, 4>;
  if (dim == 256) return {};
  switch (dtype) {
    case MICA_Q8_0:
      return decode_of_scaled<8>(dim, few);
    case MICA_Q4_0:
      return decode_of_scaled<4>(dim, few);
    case MICA_Q4_1:
      return decode_of_rare<4, true>(dim);
    case MICA_Q5_0:
      return decode_of_rare<5, false>(dim);
    case MICA_Q5_1:
      return decode_of_rare<5, true>(dim);
    default:
      return {};
  }
}

bool decode_args(const Call& call, const DecodeVariant& variant, AttentionArgs& out) {
  const int32_t target = variant.blocks * device_of(call).n_sms;
  const int32_t whole = kWholeEntries * kPageUnits * variant.warps / 8;
  return attention_args(
      call, {decode_rows(call), target, kDeepChunks, kPageUnits, whole, variant.warps}, out);
}

const char* decode_supports(const Call& call) {
  const char* no = supports(call);
  if (no != nullptr) return no;
  if (decode_variant(call).kernel == nullptr)
    return "K and V are not of one type, F16 or quantized, or heads are too large for the latter";
  if (!call.in[MICA_ATTENTION_MASK].absent()) return "there is a mask";
  if (call.in[MICA_ATTENTION_Q].dim[2] > kDecodeTokens) return "there are more than 64 tokens";
  if (is_unrotated(call) && !has_key_runs(call.arg<mica_attention_args>()))
    return "what K is to be rotated by begins or ends amid a run of eight elements";
  return nullptr;
}

uint64_t decode_workspace(const Call& call) {
  AttentionArgs a;
  return decode_args(call, decode_variant(call), a) ? parts_bytes(a) : 0;
}

mica_status decode_record(const Call& call, Recorder& recorder) {
  AttentionArgs a;
  const DecodeVariant variant = decode_variant(call);
  decode_args(call, variant, a);
  const int64_t tiles = (int64_t{a.n_tokens} * a.group + a.tile_rows - 1) / a.tile_rows;
  const int64_t items = (tiles + a.op.max_seqs) * a.n_kv_heads + max_slots(a);
  return launch(recorder, variant.kernel, grid_for(call, items, variant.blocks),
                dim3(static_cast<unsigned>(variant.warps) * 32), variant.shared_bytes, a);
}

// --- Plain --------------------------------------------------------------------------------------

mica_status naive_record(const Call& call, Recorder& recorder) {
  AttentionArgs a;
  attention_args(call, kNoCut, a);
  const int64_t rows = int64_t{a.n_tokens} * a.n_heads;
  const auto kernel =
      is_unrotated(call) ? attention_naive_kernel<true> : attention_naive_kernel<false>;
  return launch(recorder, kernel, grid_for(call, (rows + 3) / 4, 16), dim3(128), 0, a);
}

constexpr Kernel kRows[] = {
    {"attention", "decode", decode_supports, numerics_f32, decode_workspace, decode_record,
     gpu::takes_page<kLayoutKvPage>},
    {"attention", "tile", tile_supports, numerics_f32, tile_workspace, tile_record,
     gpu::takes_page<kLayoutKvPage>},
    {"attention", "naive", supports, numerics_f32, nullptr, naive_record,
     gpu::takes_page<kLayoutKvPage>},
};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(attention, kRows, MICA_KNOWS(attention, rope_keys))
