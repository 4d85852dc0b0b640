#include "tests/conformance/recycler.h"

#include <cstdlib>

namespace mica::conformance {
namespace {

constexpr size_t kAlign = 4096;  // of every block, whoever asked for it first

}  // namespace

Recycler::~Recycler() {
  for (const auto& [bytes, blocks] : freed_)
    for (void* const block : blocks) std::free(block);
}

void* Recycler::take(void* user, size_t bytes, size_t align) {
  if (align > kAlign) return nullptr;
  auto& self = *static_cast<Recycler*>(user);
  const std::lock_guard<std::mutex> lock(self.mutex_);
  std::vector<void*>& blocks = self.freed_[bytes];
  if (blocks.empty()) return std::aligned_alloc(kAlign, (bytes + kAlign) / kAlign * kAlign);
  void* const block = blocks.back();
  blocks.pop_back();
  return block;
}

void Recycler::give(void* user, void* block, size_t bytes) {
  if (block == nullptr) return;
  auto& self = *static_cast<Recycler*>(user);
  const std::lock_guard<std::mutex> lock(self.mutex_);
  self.freed_[bytes].push_back(block);
}

}  // namespace mica::conformance
