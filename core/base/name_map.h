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
    slots_[slot(name, name_of)] = index + 1;
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
    const uint32_t found = slots_.empty() ? 0 : slots_[slot(name, name_of)];
    return found != 0 ? found - 1 : kNone;
  }
  static constexpr uint32_t kNone = UINT32_MAX;

 private:
  // FNV-1a, then mixed: names from files differ in few characters.
  static size_t hash(const char* name) {
    uint64_t h = 14695981039346656037ull;
    for (; *name != '\0'; ++name) h = (h ^ static_cast<unsigned char>(*name)) * 1099511628211ull;
    return static_cast<size_t>(h ^ (h >> 29));
  }
  // Where the name is, or the free slot it is to have.
  template <class NameOf>
  size_t slot(const char* name, const NameOf& name_of) const {
    const size_t mask = slots_.size() - 1;
    size_t i = hash(name) & mask;
    while (slots_[i] != 0 && std::strcmp(name_of(slots_[i] - 1), name) != 0) i = (i + 1) & mask;
    return i;
  }
  template <class NameOf>
  [[nodiscard]] bool grow(const NameOf& name_of) {
    Vec<uint32_t> old(slots_.allocator());
    if (!old.resize(slots_.size() < 16 ? 16 : slots_.size() * 2)) return false;
    std::swap(old, slots_);
    for (const uint32_t s : old)
      if (s != 0) slots_[slot(name_of(s - 1), name_of)] = s;
    return true;
  }
  Vec<uint32_t> slots_;  // index + 1; 0: free
  size_t used_ = 0;
};

}  // namespace mica
