// Inside of an open GGUF file. Positions (`..._at`) are byte offsets from the file's start; those
// of metadata have been checked once, while parsing, and are trusted from then on.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>

#include "core/base/context.h"
#include "core/base/vec.h"
#include "mica/gguf.h"

static_assert(std::endian::native == std::endian::little,
              "values are read as they lie in the file");

namespace mica {

struct GgufKey {
  const char* name = nullptr;  // in mica_gguf::names
  uint64_t at = 0;             // of the key, which begins with its name's length
  uint64_t value_at = 0;       // the value, a string's first character, an array's first element
  uint64_t n = 1;              // elements of an array, bytes of a string
  uint8_t type = 0;
  uint8_t elem_type = 0;  // of arrays
  // Where array_string left off: element i_next begins (with its length) at next_at.
  uint64_t i_next = 0;
  uint64_t next_at = 0;
};

// Bytes of a value of fixed size; 0 for strings and arrays. type <= MICA_GGUF_F64.
uint32_t gguf_value_bytes(uint32_t type);
const char* gguf_type_name(uint32_t type);

// Reads exactly n bytes. IO when the file is shorter now than it was, CANCELLED.
mica_status read_file(const mica_context& context, int fd, uint64_t at, uint64_t n, void* dst,
                      Error& error);

// Fills everything but fd, file_bytes and map. After MICA_OK all of it is sound.
mica_status gguf_parse(mica_gguf& file, Error& error);

// The key or tensor of this name, or nullptr; `by_name` are the indices, sorted.
template <class Items>
auto gguf_find(Items& items, const Vec<uint32_t>& by_name, const char* name) {
  const uint32_t* found = std::lower_bound(
      by_name.begin(), by_name.end(), name,
      [&](uint32_t i, const char* wanted) { return std::strcmp(items[i].name, wanted) < 0; });
  const bool there = found != by_name.end() && std::strcmp(items[*found].name, name) == 0;
  return there ? &items[*found] : nullptr;
}

}  // namespace mica

struct mica_gguf {
  explicit mica_gguf(mica_context* c)
      : context(c), head(c->allocator), names(c->allocator), keys(c->allocator),
        tensors(c->allocator), keys_by_name(c->allocator), tensors_by_name(c->allocator) {}
  // The metadata's bytes from `at` on.
  const char* bytes(uint64_t at) const {
    return (map != nullptr ? map : head.data()) + static_cast<size_t>(at);
  }

  mica_context* context;
  int fd = -1;
  uint32_t version = 0;
  uint64_t file_bytes = 0;
  uint64_t keys_end = 0;      // where the last key ends
  const char* map = nullptr;  // the whole file, or nullptr in READ mode
  mica::Vec<char> head;       // READ mode: the file's first bytes, at least all metadata
  mica::Vec<char> names;      // of keys, then of tensors, each NUL-terminated
  mica::Vec<mica::GgufKey> keys;
  mica::Vec<mica_gguf_tensor> tensors;
  mica::Vec<uint32_t> keys_by_name;  // indices, sorted by name
  mica::Vec<uint32_t> tensors_by_name;
};
