// Memory that comes back where it was.
#pragma once
#include <map>
#include <mutex>
#include <vector>

#include "mica/context.h"

namespace mica::conformance {

// An allocator that gives a block of the size that was freed last: what a case makes anew lies
// where the same lay before.
class Recycler {
 public:
  Recycler() = default;
  ~Recycler();
  Recycler(const Recycler&) = delete;
  Recycler& operator=(const Recycler&) = delete;
  const mica_allocator* allocator() const { return &allocator_; }

 private:
  static void* take(void* user, size_t bytes, size_t align);
  static void give(void* user, void* block, size_t bytes);

  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> freed_;  // by their sizes
  mica_allocator allocator_ = {this, take, give};
};

}  // namespace mica::conformance
