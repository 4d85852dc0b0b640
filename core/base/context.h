// The context behind mica_context: lent resources and the last error. Reference-counted, because
// every object made from it keeps it alive.
#pragma once
#include <atomic>

#include "core/base/text.h"
#include "mica/device.h"

struct mica_context {
  explicit mica_context(const mica_allocator& a) : allocator(a), backends(allocator) {}
  ~mica_context();

  struct Backend {
    const mica_backend* table;
    void* library;  // dlopen handle, nullptr: linked in
  };
  const mica_allocator allocator;
  mica::Vec<Backend> backends;
  mica_logger logger{};
  mica_executor executor{};  // without a function: none
  uint32_t n_threads = 0;
  const volatile int32_t* cancel = nullptr;
  uint64_t memory_budget_bytes = 0;
  mica::Error error;
  std::atomic<uint32_t> references{1};
  uint32_t n_graphs = 0;  // ever made: what their tags count

  // Set by another thread: read once, as one piece.
  bool cancelled() const {
    return cancel != nullptr && __atomic_load_n(cancel, __ATOMIC_RELAXED) != 0;
  }
};

namespace mica {
// Of a context, and of what is counted as it is.
template <class T>
T* retain(T* object) {
  object->references.fetch_add(1, std::memory_order_relaxed);
  return object;
}
}  // namespace mica
