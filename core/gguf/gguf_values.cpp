// GGUF look-up by name, and typed getters that convert only when nothing is lost. Positions were
// checked while parsing; types and ranges are checked here, at each call.
#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <type_traits>

#include "core/base/checked.h"
#include "core/gguf/gguf.h"

namespace mica {
namespace {

template <class Item>
bool find_by_name(const Vec<Item>& items, const Vec<uint32_t>& order, const char* name,
                  uint32_t& out_i) {
  const uint32_t* found = std::lower_bound(
      order.begin(), order.end(), name,
      [&](uint32_t i, const char* wanted) { return std::strcmp(items[i].name, wanted) < 0; });
  if (found == order.end() || std::strcmp(items[*found].name, name) != 0) return false;
  out_i = *found;
  return true;
}

}  // namespace

uint32_t gguf_value_bytes(uint32_t type) {
  constexpr uint8_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < sizeof kBytes ? kBytes[type] : 0;
}

const char* gguf_type_name(uint32_t type) {
  const char* const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                               "bool", "string", "array", "u64", "i64", "f64"};
  return type < sizeof names / sizeof names[0] ? names[type] : "unknown";
}

bool gguf_find_key(const mica_gguf& file, const char* name, uint32_t& out_i) {
  return find_by_name(file.keys, file.keys_by_name, name, out_i);
}
bool gguf_find_tensor(const mica_gguf& file, const char* name, uint32_t& out_i) {
  return find_by_name(file.tensors, file.tensors_by_name, name, out_i);
}

namespace {

// A number as wide as its kind goes.
struct Number {
  enum Kind { kSigned, kUnsigned, kReal } kind;
  int64_t i;
  uint64_t u;
  double f;
};

template <class T>
T load(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// False for strings and arrays.
bool load_number(uint32_t type, const char* p, Number& out) {
  const auto set_signed = [&](int64_t v) { return out = {Number::kSigned, v, 0, 0}, true; };
  const auto set_unsigned = [&](uint64_t v) { return out = {Number::kUnsigned, 0, v, 0}, true; };
  const auto set_real = [&](double v) { return out = {Number::kReal, 0, 0, v}, true; };
  if (type == MICA_GGUF_BOOL || type == MICA_GGUF_U8) return set_unsigned(load<uint8_t>(p));
  if (type == MICA_GGUF_U16) return set_unsigned(load<uint16_t>(p));
  if (type == MICA_GGUF_U32) return set_unsigned(load<uint32_t>(p));
  if (type == MICA_GGUF_U64) return set_unsigned(load<uint64_t>(p));
  if (type == MICA_GGUF_I8) return set_signed(load<int8_t>(p));
  if (type == MICA_GGUF_I16) return set_signed(load<int16_t>(p));
  if (type == MICA_GGUF_I32) return set_signed(load<int32_t>(p));
  if (type == MICA_GGUF_I64) return set_signed(load<int64_t>(p));
  if (type == MICA_GGUF_F32) return set_real(static_cast<double>(load<float>(p)));
  if (type == MICA_GGUF_F64) return set_real(load<double>(p));
  return false;
}

// True when the number's significant bits fit in `digits` (24 for float, 53 for double).
bool has_digits(uint64_t magnitude, int digits) {
  return magnitude == 0 || 64 - std::countl_zero(magnitude) - std::countr_zero(magnitude) <= digits;
}

// A real is never made an integer: the file means another thing then.
template <class T>
bool convert(const Number& v, T& out) {
  if constexpr (std::is_floating_point_v<T>) {
    if (v.kind == Number::kReal) {
      if (std::is_same_v<T, float> && std::isfinite(v.f) && std::fabs(v.f) > double{FLT_MAX}) {
        return false;
      }
      out = static_cast<T>(v.f);
      return std::isnan(v.f) || static_cast<double>(out) == v.f;
    }
    const uint64_t magnitude = v.kind == Number::kUnsigned ? v.u
                               : v.i < 0                   ? ~static_cast<uint64_t>(v.i) + 1
                                                           : static_cast<uint64_t>(v.i);
    if (!has_digits(magnitude, std::is_same_v<T, float> ? FLT_MANT_DIG : DBL_MANT_DIG))
      return false;
    out = v.kind == Number::kUnsigned ? static_cast<T>(v.u) : static_cast<T>(v.i);
    return true;
  } else {
    if (v.kind == Number::kReal) return false;
    return v.kind == Number::kSigned ? !__builtin_add_overflow(v.i, 0, &out)
                                     : !__builtin_add_overflow(v.u, 0u, &out);
  }
}

template <class T>
constexpr const char* kNameOf = nullptr;
template <>
constexpr const char* kNameOf<uint32_t> = "u32";
template <>
constexpr const char* kNameOf<uint64_t> = "u64";
template <>
constexpr const char* kNameOf<int64_t> = "i64";
template <>
constexpr const char* kNameOf<float> = "f32";
template <>
constexpr const char* kNameOf<double> = "f64";

// Says why `v` is no T: another type, or a value that T cannot hold.
template <class T>
mica_status refuse(Error& error, const char* key, const char* where, uint32_t type,
                   const Number& v) {
  if (v.kind == Number::kReal && !std::is_floating_point_v<T>) {
    return error.fail(MICA_INVALID_ARGUMENT, "key ", quoted(key), where, " is of type ",
                      gguf_type_name(type), ", wanted ", kNameOf<T>);
  }
  char number[32];
  Writer writer(number, sizeof number);
  if (v.kind == Number::kReal) writer.put(v.f);
  if (v.kind == Number::kSigned) writer.put(v.i);
  if (v.kind == Number::kUnsigned) writer.put(v.u);
  return error.fail(MICA_INVALID_ARGUMENT, "key ", quoted(key), where, " is ",
                    static_cast<const char*>(number), ", which ", kNameOf<T>,
                    " cannot hold exactly");
}

mica_status find_key(mica_gguf* file, const char* name, bool has_out, GgufKey*& out) {
  if (file == nullptr) return MICA_INVALID_ARGUMENT;
  Error& error = file->context->error;
  if (name == nullptr || !has_out) {
    return error.fail(MICA_INVALID_ARGUMENT, "GGUF getter: NULL argument");
  }
  uint32_t i = 0;
  if (!gguf_find_key(*file, name, i)) {
    return error.fail(MICA_NOT_FOUND, "key ", quoted(name), " is not in the file");
  }
  out = &file->keys[i];
  return MICA_OK;
}

mica_status wrong_type(const mica_gguf& file, const GgufKey& key, const char* wanted) {
  const bool array = key.type == MICA_GGUF_ARRAY;
  return file.context->error.fail(
      MICA_INVALID_ARGUMENT, "key ", quoted(key.name), " is of type ", array ? "array of " : "",
      gguf_type_name(array ? key.elem_type : key.type), ", wanted ", wanted);
}

template <class T>
mica_status get_number(mica_gguf* file, const char* name, T* out) {
  GgufKey* key = nullptr;
  MICA_TRY(find_key(file, name, out != nullptr, key));
  Number v;
  if (!load_number(key->type, file->bytes(key->value_at), v)) {
    return wrong_type(*file, *key, kNameOf<T>);
  }
  if (!convert(v, *out)) return refuse<T>(file->context->error, name, "", key->type, v);
  return MICA_OK;
}

// Finds an array with elements [first, first + n).
mica_status find_array(mica_gguf* file, const char* name, bool has_out, uint64_t first, uint64_t n,
                       GgufKey*& out) {
  MICA_TRY(find_key(file, name, has_out, out));
  if (out->type != MICA_GGUF_ARRAY) return wrong_type(*file, *out, "array");
  if (range_fits(first, n, out->n)) return MICA_OK;
  return file->context->error.fail(MICA_INVALID_ARGUMENT, "key ", quoted(name), " has ", out->n,
                                   " elements; ", n, " from ", first, " on were asked for");
}

template <class T>
mica_status get_numbers(mica_gguf* file, const char* name, uint64_t first, uint64_t n, T* out) {
  GgufKey* key = nullptr;
  MICA_TRY(find_array(file, name, out != nullptr || n == 0, first, n, key));
  const uint64_t bytes = gguf_value_bytes(key->elem_type);
  if (bytes == 0) return wrong_type(*file, *key, "array of numbers");
  const char* p = file->bytes(key->value_at + first * bytes);
  for (uint64_t i = 0; i < n; ++i, p += bytes) {
    Number v;
    load_number(key->elem_type, p, v);
    if (convert(v, out[i])) continue;
    char where[32];
    Writer(where, sizeof where).put("[", first + i, "]");
    return refuse<T>(file->context->error, name, where, key->elem_type, v);
  }
  return MICA_OK;
}

}  // namespace
}  // namespace mica

using mica::GgufKey;

uint64_t mica_gguf_n_keys(const mica_gguf* file) { return file != nullptr ? file->keys.size() : 0; }

const char* mica_gguf_key_at(const mica_gguf* file, uint64_t i, mica_gguf_type* out_type,
                             mica_gguf_type* out_elem_type, uint64_t* out_n) {
  if (file == nullptr || i >= file->keys.size()) return nullptr;
  const GgufKey& key = file->keys[static_cast<size_t>(i)];
  const bool array = key.type == MICA_GGUF_ARRAY;
  if (out_type != nullptr) *out_type = static_cast<mica_gguf_type>(key.type);
  if (out_elem_type != nullptr) {
    *out_elem_type = static_cast<mica_gguf_type>(array ? key.elem_type : key.type);
  }
  if (out_n != nullptr) *out_n = array ? key.n : 1;
  return key.name;
}

const void* mica_gguf_key_raw(const mica_gguf* file, uint64_t i, size_t* out_bytes) {
  if (file == nullptr || out_bytes == nullptr || i >= file->keys.size()) return nullptr;
  // A key begins with its name's length; the next begins where it ends.
  const auto begin_of = [&](size_t k) {
    return k < file->keys.size() ? file->keys[k].name_at - sizeof(uint64_t) : file->keys_end;
  };
  const uint64_t begin = begin_of(static_cast<size_t>(i));
  *out_bytes = static_cast<size_t>(begin_of(static_cast<size_t>(i) + 1) - begin);
  return file->bytes(begin);
}

int mica_gguf_has(const mica_gguf* file, const char* key) {
  uint32_t i = 0;
  return file != nullptr && key != nullptr && mica::gguf_find_key(*file, key, i) ? 1 : 0;
}

mica_status mica_gguf_get_u32(mica_gguf* file, const char* key, uint32_t* out) {
  return mica::get_number(file, key, out);
}
mica_status mica_gguf_get_u64(mica_gguf* file, const char* key, uint64_t* out) {
  return mica::get_number(file, key, out);
}
mica_status mica_gguf_get_i64(mica_gguf* file, const char* key, int64_t* out) {
  return mica::get_number(file, key, out);
}
mica_status mica_gguf_get_f32(mica_gguf* file, const char* key, float* out) {
  return mica::get_number(file, key, out);
}
mica_status mica_gguf_get_f64(mica_gguf* file, const char* key, double* out) {
  return mica::get_number(file, key, out);
}

mica_status mica_gguf_get_bool(mica_gguf* file, const char* key, int* out) {
  GgufKey* found = nullptr;
  MICA_TRY(mica::find_key(file, key, out != nullptr, found));
  if (found->type != MICA_GGUF_BOOL) return mica::wrong_type(*file, *found, "bool");
  *out = *file->bytes(found->value_at);
  return MICA_OK;
}

mica_status mica_gguf_get_string(mica_gguf* file, const char* key, const char** out_data,
                                 size_t* out_size) {
  GgufKey* found = nullptr;
  MICA_TRY(mica::find_key(file, key, out_data != nullptr && out_size != nullptr, found));
  if (found->type != MICA_GGUF_STRING) return mica::wrong_type(*file, *found, "string");
  *out_data = file->bytes(found->value_at);
  *out_size = static_cast<size_t>(found->n);
  return MICA_OK;
}

mica_status mica_gguf_array_size(mica_gguf* file, const char* key, uint64_t* out_n) {
  GgufKey* found = nullptr;
  MICA_TRY(mica::find_array(file, key, out_n != nullptr, 0, 0, found));
  *out_n = found->n;
  return MICA_OK;
}

mica_status mica_gguf_array_i64(mica_gguf* file, const char* key, uint64_t first, uint64_t n,
                                int64_t* out) {
  return mica::get_numbers(file, key, first, n, out);
}
mica_status mica_gguf_array_f32(mica_gguf* file, const char* key, uint64_t first, uint64_t n,
                                float* out) {
  return mica::get_numbers(file, key, first, n, out);
}

mica_status mica_gguf_array_string(mica_gguf* file, const char* key, uint64_t i,
                                   const char** out_data, size_t* out_size) {
  GgufKey* found = nullptr;
  const bool has_out = out_data != nullptr && out_size != nullptr;
  MICA_TRY(mica::find_array(file, key, has_out, i, 1, found));
  if (found->elem_type != MICA_GGUF_STRING) {
    return mica::wrong_type(*file, *found, "array of strings");
  }
  if (i < found->i_next) {
    found->i_next = 0;
    found->next_at = found->value_at;
  }
  for (;; ++found->i_next) {
    const auto length = mica::load<uint64_t>(file->bytes(found->next_at));
    const uint64_t at = found->next_at + sizeof length;
    if (found->i_next == i) {
      *out_data = file->bytes(at);
      *out_size = static_cast<size_t>(length);
      return MICA_OK;
    }
    found->next_at = at + length;
  }
}
