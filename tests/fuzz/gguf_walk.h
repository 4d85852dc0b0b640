// Opens a GGUF file and uses everything it offers, so that whatever a damaged file makes the reader
// believe is really touched. Shared by the fuzz target and the unit tests.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "mica/gguf.h"

namespace gguf_walk {

// Reads every byte, so that a sanitizer sees each address.
inline unsigned touch(const void* data, size_t n) {
  const auto* p = static_cast<const volatile unsigned char*>(data);
  unsigned sum = 0;
  for (size_t i = 0; i < n; ++i) sum += p[i];
  return sum;
}

inline void walk_key(mica_gguf* file, uint64_t i) {
  mica_gguf_type type, elem;
  uint64_t n = 0;
  const char* key = mica_gguf_key_at(file, i, &type, &elem, &n);
  if (key == nullptr) __builtin_trap();
  if (mica_gguf_has(file, key) != 1) __builtin_trap();
  uint32_t u32;
  uint64_t u64;
  int64_t i64;
  float f32;
  double f64;
  int truth;
  const char* data = nullptr;
  size_t size = 0;
  const auto* raw = static_cast<const char*>(mica_gguf_key_raw(file, i, &size));
  if (raw == nullptr || size < 8 + std::strlen(key)) __builtin_trap();
  if (std::memcmp(raw + 8, key, std::strlen(key)) != 0) __builtin_trap();  // behind its length
  mica_gguf_get_u32(file, key, &u32);
  mica_gguf_get_u64(file, key, &u64);
  mica_gguf_get_i64(file, key, &i64);
  mica_gguf_get_f32(file, key, &f32);
  mica_gguf_get_f64(file, key, &f64);
  if (mica_gguf_get_bool(file, key, &truth) == MICA_OK && truth != 0 && truth != 1) {
    __builtin_trap();
  }
  if (mica_gguf_get_string(file, key, &data, &size) == MICA_OK) touch(data, size);
  if (type != MICA_GGUF_ARRAY) return;
  for (uint64_t first = 0; first < n; first += 256) {
    int64_t ints[256];
    float floats[256];
    const uint64_t count = n - first < 256 ? n - first : 256;
    mica_gguf_array_i64(file, key, first, count, ints);
    mica_gguf_array_f32(file, key, first, count, floats);
  }
  mica_gguf_array_f32(file, key, n, 1, &f32);
  mica_gguf_array_i64(file, key, UINT64_MAX, 1, &i64);
  for (uint64_t j = 0; j < n; ++j) {
    if (mica_gguf_array_string(file, key, j, &data, &size) != MICA_OK) break;
    touch(data, size);
  }
  mica_gguf_array_string(file, key, n / 2, &data, &size);  // backwards
  mica_gguf_array_string(file, key, n, &data, &size);
}

inline void walk_tensor(mica_gguf* file, uint64_t i) {
  const mica_gguf_tensor* t = mica_gguf_tensor_at(file, i);
  if (t == nullptr || mica_gguf_tensor_find(file, t->name) != t) __builtin_trap();
  const void* map = mica_gguf_map(file, t);
  if (map != nullptr) touch(map, static_cast<size_t>(t->bytes));
  char head[64];
  const uint64_t n = t->bytes < sizeof head ? t->bytes : sizeof head;
  if (mica_gguf_read(file, t, 0, n, head) != MICA_OK) __builtin_trap();
  if (mica_gguf_read(file, t, t->bytes - n, n, head) != MICA_OK) __builtin_trap();
  if (mica_gguf_read(file, t, t->bytes - n + 1, n, head) == MICA_OK) __builtin_trap();
}

// The status of opening; the file has been closed again.
inline mica_status walk(mica_context* context, const char* path, mica_gguf_mode mode) {
  mica_gguf* file = nullptr;
  const mica_status status = mica_gguf_open(context, path, mode, &file);
  if ((status == MICA_OK) != (file != nullptr)) __builtin_trap();
  if (file == nullptr) {
    for (const char* p = mica_context_error(context); *p != '\0'; ++p) {
      if (*p < 0x20 || *p > 0x7e) __builtin_trap();  // nothing raw from a file in an error text
    }
    return status;
  }
  for (uint64_t i = 0; i < mica_gguf_n_keys(file); ++i) walk_key(file, i);
  for (uint64_t i = 0; i < mica_gguf_n_tensors(file); ++i) walk_tensor(file, i);
  mica_gguf_release(file);
  return status;
}

}  // namespace gguf_walk
