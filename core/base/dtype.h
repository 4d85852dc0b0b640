// What a data type is: its row of dtype.def and its reference codec. One DtypeDef a type, in
// ops/dtypes/<name>.cpp.
#pragma once
#include "core/base/text.h"
#include "mica/dtype.h"

namespace mica {

struct DtypeDef {
  mica_dtype_info info;
  // n is a multiple of block_elems; both pointers are at a block's start; src may be unaligned.
  void (*decode)(const void* src, float* dst, size_t n);
  void (*encode)(const float* src, void* dst, size_t n);  // nullptr: cannot be encoded from F32
};

#define MICA_DTYPE(NAME, name, id, block_elems, block_bytes) extern const DtypeDef dtype_##name;
#include "mica/dtype.def"
#undef MICA_DTYPE

// nullptr when there is no such type. `id` is compared as an integer: safe for numbers from files.
const DtypeDef* find_dtype(uint32_t id);
// Of a type that there is.
inline const mica_dtype_info& dtype_info(mica_dtype dtype) {
  return find_dtype(static_cast<uint32_t>(dtype))->info;
}

// Bytes of one row of n elements; n must be a multiple of block_elems.
inline uint64_t row_bytes(const mica_dtype_info& d, uint64_t n) {
  return n / d.block_elems * d.block_bytes;
}

// The one rule for tensor sizes. False (with the reason in `error`) when the rank is not 1…4, a
// dimension is below 1 or the row is not whole blocks, or any product does not fit in 63 bits.
[[nodiscard]] bool tensor_bytes(const mica_dtype_info& d, uint32_t rank, const int64_t* dim,
                                uint64_t& out_bytes, Error& error);

}  // namespace mica

// Defines the table entry of a type; used once in ops/dtypes/<name>.cpp.
#define MICA_DEFINE_DTYPE(NAME, name_, elems, bytes, decode_, encode_)               \
  namespace mica {                                                                   \
  const DtypeDef dtype_##name_ = {                                                   \
      {MICA_##NAME, #name_, elems, bytes, (elems) > 1 ? 1u : 0u}, decode_, encode_}; \
  }
