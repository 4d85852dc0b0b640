// A hash map from names to indices; the names stay with their owner.
#pragma once
#include <cstring>

#include "core/base/vec.h"

namespace mica {

class NameMap {
 public:
  explicit NameMap(const mica_allocator& a) : slots_(a) {}

  // Adds name -> index; `name_of(i)` gives the name of a stored index. False: out of memory.
  template <class NameOf>
  [[nodiscard]] bool insert(const char* name, uint32_t index, const NameOf& name_of) {
    if ((used_ + 1) * 2 > slots_.size() && !grow(name_of)) return false;
    place(hash(name), index);
    ++used_;
    return true;
  }
  // Forgets all names; adding as many again needs no memory.
  void clear() {
    for (uint32_t& s : slots_) s = 0;
    used_ = 0;
  }
  // kNone when there is no such name.
  template <class NameOf>
  uint32_t find(const char* name, const NameOf& name_of) const {
    if (slots_.empty()) return kNone;
    const size_t mask = slots_.size() - 1;
    for (size_t i = hash(name) & mask; slots_[i] != 0; i = (i + 1) & mask)
      if (std::strcmp(name_of(slots_[i] - 1), name) == 0) return slots_[i] - 1;
    return kNone;
  }
  static constexpr uint32_t kNone = UINT32_MAX;

 private:
  // FNV-1a, then mixed: names from files differ in few characters.
  static size_t hash(const char* name) {
    uint64_t h = 14695981039346656037ull;
    for (; *name != '\0'; ++name) h = (h ^ static_cast<unsigned char>(*name)) * 1099511628211ull;
    return static_cast<size_t>(h ^ (h >> 29));
  }
  void place(size_t h, uint32_t index) {
    const size_t mask = slots_.size() - 1;
    size_t i = h & mask;
    while (slots_[i] != 0) i = (i + 1) & mask;
    slots_[i] = index + 1;
  }
  template <class NameOf>
  [[nodiscard]] bool grow(const NameOf& name_of) {
    Vec<uint32_t> old(std::move(slots_));
    slots_ = Vec<uint32_t>(old.allocator());
    if (!slots_.resize(old.size() < 16 ? 16 : old.size() * 2)) {
      slots_ = std::move(old);
      return false;
    }
    for (const uint32_t s : old)
      if (s != 0) place(hash(name_of(s - 1)), s - 1);
    return true;
  }
  Vec<uint32_t> slots_;  // index + 1; 0: free
  size_t used_ = 0;
};

}  // namespace mica
