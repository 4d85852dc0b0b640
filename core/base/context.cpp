// Contexts, status names, and the default allocator.
#include "core/base/context.h"

#include <cstdlib>

#include "mica/mica.h"

namespace {

void* default_alloc(void*, size_t bytes, size_t align) {
  void* p = nullptr;
  if (align < sizeof(void*)) align = sizeof(void*);
  return posix_memalign(&p, align, bytes) == 0 ? p : nullptr;
}
void default_free(void*, void* ptr, size_t) { std::free(ptr); }

constexpr mica_allocator kDefaultAllocator = {nullptr, default_alloc, default_free};

struct StatusRow {
  mica_status status;
  const char *name, *text;
};
const StatusRow& row_of(mica_status status) {
#define MICA_STATUS_ROW(name, number, text) {MICA_##name, #name, text},
  static constexpr StatusRow kRows[] = {MICA_STATUS_LIST(MICA_STATUS_ROW)};
#undef MICA_STATUS_ROW
  static constexpr StatusRow kUnknown = {MICA_OK, "UNKNOWN", "not a status of this version"};
  for (const StatusRow& row : kRows)
    if (row.status == status) return row;
  return kUnknown;
}

}  // namespace

const mica_allocator& mica::default_allocator() { return kDefaultAllocator; }

extern "C" {

mica_status mica_context_create(const mica_context_params* params, mica_context** out_context) {
  if (out_context == nullptr) return MICA_INVALID_ARGUMENT;
  *out_context = nullptr;
  const mica_context_params defaults = MICA_CONTEXT_PARAMS_INIT;
  if (params == nullptr) params = &defaults;
  if (params->struct_size != sizeof(mica_context_params)) return MICA_INVALID_ARGUMENT;
  const mica_allocator allocator =
      params->allocator != nullptr ? *params->allocator : kDefaultAllocator;
  if (allocator.alloc == nullptr || allocator.free == nullptr) return MICA_INVALID_ARGUMENT;
  if (params->executor != nullptr &&
      (params->executor->parallel == nullptr || params->executor->n_threads == 0))
    return MICA_INVALID_ARGUMENT;
  auto* c = mica::create<mica_context>(allocator, allocator);
  if (c == nullptr) return MICA_OUT_OF_MEMORY;
  if (params->logger != nullptr) c->logger = *params->logger;
  if (params->executor != nullptr) c->executor = *params->executor;
  c->n_threads = params->n_threads;
  c->cancel = params->cancel;
  c->memory_budget_bytes = params->memory_budget_bytes;
  *out_context = c;
  return MICA_OK;
}

void mica_context_release(mica_context* context) {
  if (context == nullptr) return;
  if (context->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  const mica_allocator allocator = context->allocator;
  mica::destroy(allocator, context);
}

const char* mica_context_error(const mica_context* context) {
  return context != nullptr ? context->error.text() : "";
}

const char* mica_version(void) { return "0.1.0"; }

const char* mica_status_name(mica_status status) { return row_of(status).name; }
const char* mica_status_text(mica_status status) { return row_of(status).text; }

}  // extern "C"
