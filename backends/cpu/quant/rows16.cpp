// The table of types, and decoding of single rows.
#include "backends/cpu/quant/rows16.h"

MICA_CPU_BEGIN

const Rows16* find_rows16(mica_dtype dtype) {
  switch (dtype) {
#define MICA_DTYPE(NAME, name, id, block_elems, block_bytes) \
  case MICA_##NAME:                                          \
    return &rows16_##name;
#include "mica/dtype.def"
#undef MICA_DTYPE
    default:
      return nullptr;
  }
}

constexpr uint32_t kMaxBlockElems = 256;
constexpr uint32_t kMaxBlockBytes = 256;

static void copy_bytes(void* dst, const void* src, int64_t bytes) {
  if (bytes > 0) __builtin_memcpy(dst, src, static_cast<size_t>(bytes));
}

void decode_row16(const Tensor& w, int64_t row, float* dst) {
  const Rows16& t = *find_rows16(w.dtype);
  const int64_t n = w.dim[0];
  const uint8_t* record =
      reinterpret_cast<const uint8_t*>(w.data) + row / kGroupRows * t.group_bytes(n);
  const uint32_t lane = static_cast<uint32_t>(row % kGroupRows);
  uint8_t block[kMaxBlockBytes];
  uint32_t i = 0;
  for (int64_t k = 0; k < n; k += t.block_elems) {
    t.unpack(record, i, lane, block);
    if (n - k >= t.block_elems) {
      t.decode(block, dst + k);
    } else {
      float tail[kMaxBlockElems];
      t.decode(block, tail);
      copy_bytes(dst + k, tail, (n - k) * 4);
    }
    if (++i == t.blocks) {
      i = 0;
      record += t.record_bytes;
    }
  }
}

void decode_plain(mica_dtype dtype, const void* src, int64_t n, float* dst) {
  const Rows16& t = *find_rows16(dtype);
  const uint8_t* block = static_cast<const uint8_t*>(src);
  const int64_t elem_bytes = t.block_bytes / t.block_elems;
  int64_t k = 0;
  for (; k + t.block_elems <= n; k += t.block_elems, block += t.block_bytes) {
    t.decode(block, dst + k);
  }
  if (k < n) {
    uint8_t padded[kMaxBlockBytes] = {};
    float tail[kMaxBlockElems];
    copy_bytes(padded, block, (n - k) * elem_bytes);
    t.decode(padded, tail);
    copy_bytes(dst + k, tail, (n - k) * 4);
  }
}

MICA_CPU_END
