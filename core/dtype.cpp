// The table of data types, their public functions, and the one rule for tensor sizes.
#include "core/dtype.h"

#include "core/base/checked.h"

namespace mica {
namespace {

constexpr uint32_t kTypeIds[] = {
#define MICA_DTYPE(NAME, name, id, block_elems, block_bytes) id,
#include "mica/dtype.def"
#undef MICA_DTYPE
};
constexpr uint32_t kTypes = sizeof kTypeIds / sizeof kTypeIds[0];

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool equal_names(const char* a, const char* b) {
  for (; *a != '\0' && lower(*a) == lower(*b); ++a, ++b) {
  }
  return *a == '\0' && *b == '\0';
}

}  // namespace

const DtypeDef* find_dtype(uint32_t id) {
  switch (id) {
#define MICA_DTYPE(NAME, name, id, block_elems, block_bytes) \
  case id:                                                   \
    return &dtype_##name;
#include "mica/dtype.def"
#undef MICA_DTYPE
    default:
      return nullptr;
  }
}

bool tensor_bytes(const mica_dtype_info& d, uint32_t rank, const int64_t* dim, uint64_t& out_bytes,
                  Error& error) {
  if (rank < 1 || rank > 4) {
    error.fail(MICA_INVALID_ARGUMENT, "rank is ", rank, ", not 1 to 4");
    return false;
  }
  for (uint32_t i = 0; i < rank; ++i) {
    if (dim[i] >= 1) continue;
    error.fail(MICA_INVALID_ARGUMENT, "dim[", i, "] is ", dim[i], ", less than 1");
    return false;
  }
  if (dim[0] % d.block_elems != 0) {
    error.fail(MICA_INVALID_ARGUMENT, "dim[0] is ", dim[0], ", not a multiple of ", d.block_elems,
               ", the block of ", d.name);
    return false;
  }
  // Both counts must fit, each on its own: a block may have more or fewer bytes than elements.
  int64_t elems = dim[0];
  int64_t bytes = 0;
  bool fits = checked_mul<int64_t>(dim[0] / d.block_elems, d.block_bytes, bytes);
  for (uint32_t i = 1; i < rank && fits; ++i) {
    fits = checked_mul(elems, dim[i], elems) && checked_mul(bytes, dim[i], bytes);
  }
  if (!fits) {
    error.fail(MICA_INVALID_ARGUMENT, "the size does not fit in 63 bits");
    return false;
  }
  out_bytes = static_cast<uint64_t>(bytes);
  return true;
}

}  // namespace mica

using mica::DtypeDef;
using mica::find_dtype;

const mica_dtype_info* mica_dtype_get(mica_dtype dtype) {
  const DtypeDef* def = find_dtype(static_cast<uint32_t>(dtype));
  return def != nullptr ? &def->info : nullptr;
}

const mica_dtype_info* mica_dtype_find(const char* name) {
  if (name == nullptr) return nullptr;
  for (const uint32_t id : mica::kTypeIds) {
    const DtypeDef* def = find_dtype(id);
    if (mica::equal_names(def->info.name, name)) return &def->info;
  }
  return nullptr;
}

const mica_dtype_info* mica_dtype_at(uint32_t i) {
  return i < mica::kTypes ? &find_dtype(mica::kTypeIds[i])->info : nullptr;
}

mica_status mica_dtype_decode(mica_dtype dtype, const void* src, float* dst, size_t n) {
  const DtypeDef* def = find_dtype(static_cast<uint32_t>(dtype));
  if (def == nullptr || n % def->info.block_elems != 0) return MICA_INVALID_ARGUMENT;
  if (n == 0) return MICA_OK;
  if (src == nullptr || dst == nullptr) return MICA_INVALID_ARGUMENT;
  def->decode(src, dst, n);
  return MICA_OK;
}

mica_status mica_dtype_encode(mica_dtype dtype, const float* src, void* dst, size_t n) {
  const DtypeDef* def = find_dtype(static_cast<uint32_t>(dtype));
  if (def == nullptr || n % def->info.block_elems != 0) return MICA_INVALID_ARGUMENT;
  if (def->encode == nullptr) return MICA_UNSUPPORTED;
  if (n == 0) return MICA_OK;
  if (src == nullptr || dst == nullptr) return MICA_INVALID_ARGUMENT;
  def->encode(src, dst, n);
  return MICA_OK;
}
