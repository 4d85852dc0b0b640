// GGUF look-up by name, and typed getters that convert only when nothing is lost. Positions were
// checked while parsing; types and ranges are checked here, at each call.
#include <bit>
#include <cfloat>
#include <cmath>
#include <type_traits>

#include "core/base/checked.h"
#include "core/gguf/gguf.h"

namespace mica {

uint32_t gguf_value_bytes(uint32_t type) {
  constexpr uint8_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < sizeof kBytes ? kBytes[type] : 0;
}

const char* gguf_type_name(uint32_t type) {
  const char* const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                               "bool", "string", "array", "u64", "i64", "f64"};
  return type < sizeof names / sizeof names[0] ? names[type] : "unknown";
}

namespace {

struct Number {
  bool real = false, negative = false;
  uint64_t magnitude = 0;  // of an integer
  double f = 0;            // of a real
};

template <class T>
T load(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// False for strings and arrays.
bool load_number(uint32_t type, const char* p, Number& out) {
  const uint32_t bytes = gguf_value_bytes(type);
  if (bytes == 0) return false;
  out.real = type == MICA_GGUF_F32 || type == MICA_GGUF_F64;
  if (out.real) out.f = type == MICA_GGUF_F64 ? load<double>(p) : double{load<float>(p)};
  if (out.real) return true;
  std::memcpy(&out.magnitude, p, bytes);  // the low bytes: see gguf.h
  const bool is_signed = type == MICA_GGUF_I8 || type == MICA_GGUF_I16 || type == MICA_GGUF_I32 ||
                         type == MICA_GGUF_I64;
  out.negative = is_signed && out.magnitude >> (8 * bytes - 1) != 0;
  if (out.negative) out.magnitude = (~out.magnitude + 1) & (UINT64_MAX >> (64 - 8 * bytes));
  return true;
}

// True when the number's significant bits fit in `digits` (24 for float, 53 for double).
bool has_digits(uint64_t magnitude, int digits) {
  return magnitude == 0 || 64 - std::countl_zero(magnitude) - std::countr_zero(magnitude) <= digits;
}

// A real is never made an integer: the file means another thing then.
template <class T>
bool convert(const Number& v, T& out) {
  if constexpr (std::is_floating_point_v<T>) {
    if (v.real) {
      if (std::is_same_v<T, float> && std::isfinite(v.f) && std::fabs(v.f) > double{FLT_MAX})
        return false;
      out = static_cast<T>(v.f);
      return std::isnan(v.f) || static_cast<double>(out) == v.f;
    }
    out = static_cast<T>(v.magnitude) * (v.negative ? T{-1} : T{1});
    return has_digits(v.magnitude, std::is_same_v<T, float> ? FLT_MANT_DIG : DBL_MANT_DIG);
  } else {
    if (v.real) return false;
    return v.negative ? !__builtin_sub_overflow(0u, v.magnitude, &out)
                      : !__builtin_add_overflow(0u, v.magnitude, &out);
  }
}

template <class T>
const char* name_of() {
  if (std::is_floating_point_v<T>) return sizeof(T) == 4 ? "f32" : "f64";
  if (std::is_signed_v<T>) return "i64";
  return sizeof(T) == 4 ? "u32" : "u64";
}

// Says why `v` is no T: another type, or a value that T cannot hold.
template <class T, class... Key>
mica_status refuse(Error& error, uint32_t type, const Number& v, Key... key) {
  if (v.real && !std::is_floating_point_v<T>)
    return error.invalid(key..., " is of type ", gguf_type_name(type), ", wanted ", name_of<T>());
  const auto cannot_hold = [&](auto... value) {
    return error.invalid(key..., " is ", value..., ", which ", name_of<T>(),
                         " cannot hold exactly");
  };
  return v.real ? cannot_hold(v.f) : cannot_hold(v.negative ? "-" : "", v.magnitude);
}

mica_status find_key(mica_gguf* file, const char* name, bool has_out, GgufKey*& out) {
  if (file == nullptr) return MICA_INVALID_ARGUMENT;
  Error& error = file->context->error;
  if (name == nullptr || !has_out) return error.invalid("GGUF getter: NULL argument");
  out = gguf_find(file->keys, file->keys_by_name, name);
  if (out != nullptr) return MICA_OK;
  return error.fail(MICA_NOT_FOUND, "key ", quoted(name), " is not in the file");
}

mica_status wrong_type(const mica_gguf& file, const GgufKey& key, const char* wanted) {
  const bool array = key.type == MICA_GGUF_ARRAY;
  return file.context->error.invalid(
      "key ", quoted(key.name), " is of type ", array ? "array of " : "",
      gguf_type_name(array ? key.elem_type : key.type), ", wanted ", wanted);
}

template <class T>
mica_status get_number(mica_gguf* file, const char* name, T* out) {
  GgufKey* key = nullptr;
  MICA_TRY(find_key(file, name, out != nullptr, key));
  Number v;
  if (!load_number(key->type, file->bytes(key->value_at), v))
    return wrong_type(*file, *key, name_of<T>());
  if (convert(v, *out)) return MICA_OK;
  return refuse<T>(file->context->error, key->type, v, "key ", quoted(name));
}

// Finds an array with elements [first, first + n).
mica_status find_array(mica_gguf* file, const char* name, bool has_out, uint64_t first, uint64_t n,
                       GgufKey*& out) {
  MICA_TRY(find_key(file, name, has_out, out));
  if (out->type != MICA_GGUF_ARRAY) return wrong_type(*file, *out, "array");
  if (range_fits(first, n, out->n)) return MICA_OK;
  return file->context->error.invalid("key ", quoted(name), " has ", out->n, " elements; ", n,
                                      " from ", first, " on were asked for");
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
    if (!convert(v, out[i]))
      return refuse<T>(file->context->error, key->elem_type, v, "key ", quoted(name), "[",
                       first + i, "]");
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
  if (out_elem_type != nullptr)
    *out_elem_type = static_cast<mica_gguf_type>(array ? key.elem_type : key.type);
  if (out_n != nullptr) *out_n = array ? key.n : 1;
  return key.name;
}

const void* mica_gguf_key_raw(const mica_gguf* file, uint64_t i, size_t* out_bytes) {
  if (file == nullptr || out_bytes == nullptr || i >= file->keys.size()) return nullptr;
  const GgufKey* key = &file->keys[static_cast<size_t>(i)];
  const uint64_t end = key + 1 == file->keys.end() ? file->keys_end : key[1].at;
  *out_bytes = static_cast<size_t>(end - key->at);
  return file->bytes(key->at);
}

int mica_gguf_has(const mica_gguf* file, const char* key) {
  if (file == nullptr || key == nullptr) return 0;
  return mica::gguf_find(file->keys, file->keys_by_name, key) != nullptr ? 1 : 0;
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
  if (found->elem_type != MICA_GGUF_STRING)
    return mica::wrong_type(*file, *found, "array of strings");
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
