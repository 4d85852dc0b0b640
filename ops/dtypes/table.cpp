// The table of data types and their public functions.
#include "core/base/dtype.h"

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
