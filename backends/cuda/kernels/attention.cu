// attention over KV pages. Rows: few query rows a sequence with K and V in F16, Q8_0 or Q4_0; tiles
// of 64 query rows of any kind; the plain one. The first two cut the cells in chunks where rows are
// few.
#include "backends/cuda/kernels/attention_decode.cuh"
#include "backends/cuda/kernels/attention_merge.cuh"
#include "backends/cuda/kernels/attention_naive.cuh"
#include "backends/cuda/kernels/attention_tile.cuh"

namespace mica::cuda {
namespace {

// Fewer items than this do not fill the device.
int32_t tile_target(const Call& call) { return 2 * device_of(call).n_sms; }

bool is_f16(const Call& call) {
  return call.in[kK].dtype == MICA_F16 && call.in[kV].dtype == MICA_F16;
}
int64_t dim_of(const Call& call) {
  const int64_t k = call.in[kK].dim[0];
  const int64_t v = call.in[kV].dim[0];
  const int64_t dim = k > v ? k : v;
  return dim <= 64 ? 64 : dim <= 128 ? 128 : dim <= 256 ? 256 : 0;
}

const char* supports(const Call& call) {
  AttentionArgs a;
  if (!attention_args(call, kTileRows, 0, 1, a))
    return "K and V pages are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 or Q5_1";
  if (call.in[kK].layout != kLayoutKvPage || call.in[kV].layout != kLayoutKvPage)
    return "K and V are not a cache of this backend";
  if (call.in[kQ].layout != 0 || (!call.in[kMask].absent() && call.in[kMask].layout != 0) ||
      (!call.in[kSinks].absent() && call.in[kSinks].layout != 0))
    return "an input is a weight in a layout of the backend's";
  if (a.dim_k > kNaiveMaxDim || a.dim_v > kNaiveMaxDim) return "heads have more than 256 elements";
  return nullptr;
}

mica_status merge_record(const Call& call, const AttentionArgs& a, Recorder& recorder) {
  const int64_t rows = int64_t{a.n_tokens} * a.n_heads;
  const dim3 block(kMergeThreads);
  if (rows < int64_t{8} * device_of(call).n_sms)
    return launch(recorder, attention_merge_kernel<kMergeWarps>, grid_for(call, rows, 8), block, 0,
                  a);
  return launch(recorder, attention_merge_kernel<1>, grid_for(call, rows / kMergeWarps + 1, 8),
                block, 0, a);
}

// --- Tiles --------------------------------------------------------------------------------------

struct TileVariant {
  void (*kernel)(AttentionArgs);
  uint64_t shared_bytes;
};
template <class Parts>
constexpr TileVariant kTile = {attention_tile_kernel<Parts>, Parts::kBytes};

TileVariant tile_variant(const Call& call) {
  const bool f16 = is_f16(call);
  switch (dim_of(call)) {
    case 64:
      return f16 ? kTile<PartsF16<64>> : kTile<PartsF32<64>>;
    case 128:
      return f16 ? kTile<PartsF16<128>> : kTile<PartsF32<128>>;
    default:
      return f16 ? kTile<PartsF16<256>> : kTile<PartsF32<256>>;
  }
}

const char* tile_supports(const Call& call) {
  const char* no = supports(call);
  if (no != nullptr) return no;
  constexpr uint64_t kStatic =
      sizeof(int32_t) * 2048;  // what the kernel declares itself, rounded up
  if (tile_variant(call).shared_bytes + kStatic > device_of(call).max_shared_bytes)
    return "heads are too large for the shared memory of this device";
  return nullptr;
}

uint64_t tile_workspace(const Call& call) {
  AttentionArgs a;
  if (!attention_args(call, kTileRows, tile_target(call), 1, a)) return 0;
  return static_cast<uint64_t>(max_slots(a) * slot_floats(a)) * 4;
}

mica_status tile_record(const Call& call, Recorder& recorder) {
  AttentionArgs a;
  attention_args(call, kTileRows, tile_target(call), 1, a);
  const TileVariant variant = tile_variant(call);
  const int64_t tiles = (int64_t{a.n_tokens} * a.group + kTileRows - 1) / kTileRows;
  const int64_t items = (tiles + a.op.max_seqs) * a.n_kv_heads + max_slots(a);
  const mica_status status = launch(recorder, variant.kernel, grid_for(call, items, 4),
                                    dim3(kTileThreads), variant.shared_bytes, a);
  return status != MICA_OK ? status : merge_record(call, a, recorder);
}

// --- Few rows -----------------------------------------------------------------------------------

constexpr int64_t kDecodeTokens = 64;  // most of a step
constexpr int32_t kDeepChunks = 3;

bool decode_args(const Call& call, AttentionArgs& out) {
  const int64_t rows = call.in[kQ].dim[2] * (call.in[kQ].dim[1] / call.in[kK].dim[1]);
  // Slots of partial results are no larger than need be, and start at 16 bytes.
  const int32_t tile_rows =
      rows >= kDecodeRows ? kDecodeRows : static_cast<int32_t>(rows + 3) / 4 * 4;
  return attention_args(call, tile_rows, 3 * device_of(call).n_sms, kDeepChunks, out);
}

struct DecodeVariant {
  void (*kernel)(AttentionArgs);
  uint64_t shared_bytes;
};
template <class Cells>
constexpr DecodeVariant kDecode = {attention_decode_kernel<Cells>,
                                   decode_shared_bytes<Cells::kDim>()};

// kernel nullptr: there is none.
DecodeVariant decode_variant(const Call& call) {
  const int64_t dim = dim_of(call);
  const mica_dtype dtype = call.in[kK].dtype;
  if (call.in[kV].dtype != dtype) return {};
  if (dtype == MICA_F16)
    return dim == 64    ? kDecode<CellsF16<64>>
           : dim == 128 ? kDecode<CellsF16<128>>
                        : kDecode<CellsF16<256>>;
  if (dim == 256) return {};
  if (dtype == MICA_Q8_0)
    return dim == 64 ? kDecode<CellsQuant<64, 8>> : kDecode<CellsQuant<128, 8>>;
  if (dtype == MICA_Q4_0)
    return dim == 64 ? kDecode<CellsQuant<64, 4>> : kDecode<CellsQuant<128, 4>>;
  return {};
}

const char* decode_supports(const Call& call) {
  const char* no = supports(call);
  if (no != nullptr) return no;
  if (decode_variant(call).kernel == nullptr)
    return "K and V are not both F16, Q8_0 or Q4_0, or heads are too large for the latter";
  if (!call.in[kMask].absent()) return "there is a mask";
  if (call.in[kQ].dim[2] > kDecodeTokens) return "there are more than 64 tokens";
  return nullptr;
}

uint64_t decode_workspace(const Call& call) {
  AttentionArgs a;
  if (!decode_args(call, a)) return 0;
  return static_cast<uint64_t>(max_slots(a) * slot_floats(a)) * 4;
}

mica_status decode_record(const Call& call, Recorder& recorder) {
  AttentionArgs a;
  const DecodeVariant variant = decode_variant(call);
  decode_args(call, a);
  const int64_t tiles = (int64_t{a.n_tokens} * a.group + a.tile_rows - 1) / a.tile_rows;
  const int64_t items = (tiles + a.op.max_seqs) * a.n_kv_heads + max_slots(a);
  const mica_status status = launch(recorder, variant.kernel, grid_for(call, items, 3),
                                    dim3(kDecodeThreads), variant.shared_bytes, a);
  return status != MICA_OK ? status : merge_record(call, a, recorder);
}

// --- Plain --------------------------------------------------------------------------------------

mica_status naive_record(const Call& call, Recorder& recorder) {
  AttentionArgs a;
  attention_args(call, kTileRows, 0, 1, a);
  const int64_t rows = int64_t{a.n_tokens} * a.n_heads;
  return launch(recorder, attention_naive_kernel, grid_for(call, (rows + 3) / 4, 16), dim3(128), 0,
                a);
}

constexpr Kernel kRows[] = {
    {"attention", "", decode_supports, numerics_f32, decode_workspace, decode_record},
    {"attention", "", tile_supports, numerics_f32, tile_workspace, tile_record},
    {"attention", "naive", supports, numerics_f32, nullptr, naive_record},
};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(attention, kRows)
