// The registry of backends and the opening of devices.
#include "core/base/device.h"

#include <dlfcn.h>

using mica::Error;
using mica::quoted;
using mica::Writer;

mica_context::~mica_context() {
  for (const Backend& b : backends)
    if (b.library != nullptr) dlclose(b.library);
}

namespace {

void host_log(void* user, mica_log_level level, const char* text) {
  const mica_logger& logger = static_cast<mica_context*>(user)->logger;
  if (logger.log != nullptr) logger.log(logger.user, level, text);
}
void host_set_error(void* user, mica_status status, const char* text) {
  static_cast<mica_context*>(user)->error.fail(status, text);
}

mica_host make_host(mica_context* context) {
  mica_host h{};
  h.struct_size = sizeof h;
  h.user = context;
  h.allocator = &context->allocator;
  h.executor = context->executor.parallel != nullptr ? &context->executor : nullptr;
  h.n_threads = context->n_threads;
  h.cancel = context->cancel;
  h.log = host_log;
  h.set_error = host_set_error;
  return h;
}

// The first function that a backend must have and does not; nullptr: it has all.
const char* missing_function(const mica_backend& b) {
#define HAS(entry) \
  { b.entry != nullptr, #entry }
  const struct {
    bool there;
    const char* name;
  } required[] = {HAS(device_count),  HAS(device_info),   HAS(device_open),   HAS(device_close),
                  HAS(device_state),  HAS(buffer_create), HAS(buffer_free),   HAS(buffer_write),
                  HAS(buffer_read),   HAS(buffer_copy),   HAS(weight_layout), HAS(weight_pack),
                  HAS(weight_unpack), HAS(kv_layout),     HAS(supports),      HAS(claims),
                  HAS(query),         HAS(compile),       HAS(submit),        HAS(wait),
                  HAS(plan_release)};
#undef HAS
  for (const auto& entry : required)
    if (!entry.there) return entry.name;
  return nullptr;
}

mica_status add(mica_context* context, const mica_backend* backend, void* library) {
  Error& error = context->error;
  if (backend == nullptr) return error.null("backend");
  if (backend->struct_size != sizeof(mica_backend) || backend->abi != MICA_BACKEND_ABI)
    return error.fail(library != nullptr ? MICA_UNSUPPORTED : MICA_INVALID_ARGUMENT,
                      "the backend was built for ABI version ", backend->abi, ", this is ",
                      MICA_BACKEND_ABI);
  if (backend->name == nullptr || backend->name[0] == '\0' ||
      std::strchr(backend->name, ':') != nullptr)
    return error.invalid("the backend's name is missing or has a colon");
  if (const char* missing = missing_function(*backend); missing != nullptr)
    return error.invalid("backend ", quoted(backend->name), " has no function ", missing);
  for (const mica_context::Backend& b : context->backends)
    if (std::strcmp(b.table->name, backend->name) == 0)
      return error.invalid("a backend named ", quoted(backend->name), " is already there");
  if (!context->backends.push({backend, library})) return error.out_of_memory("backend");
  return MICA_OK;
}

// Splits "cpu:avx2" and finds the backend; `option` gets what follows the colon.
const mica_backend* find_backend(mica_context* context, const char* name, const char** option) {
  const size_t length = std::strcspn(name, ":");
  *option = name[length] == ':' ? name + length + 1 : "";
  for (const mica_context::Backend& b : context->backends)
    if (std::strlen(b.table->name) == length && std::memcmp(b.table->name, name, length) == 0)
      return b.table;
  return nullptr;
}

mica_status unknown_backend(mica_context* context, const char* name) {
  char list[160];
  Writer w(list, sizeof list);
  for (const mica_context::Backend& b : context->backends)
    w.put(w.size() == 0 ? "" : ", ").put(b.table->name);
  return context->error.fail(MICA_NOT_FOUND, "no backend for device ", quoted(name),
                             "; there are: ", w.size() == 0 ? "none" : list);
}

}  // namespace

bool mica::same_device(const mica_device* a, const mica_device* b) {
  return a == b || (a->backend == b->backend && std::strcmp(a->option, b->option) == 0);
}

uint64_t mica::free_bytes(const mica_device* device) {
  mica_device_info now{};
  (void)mica_device_get_info(device, &now);
  return now.is_cpu != 0 ? 0 : now.free_bytes;
}

mica_status mica::Buffer::create(mica_device* device, uint64_t bytes, const char* what) {
  reset();
  if (bytes == 0) bytes = 64;
  mica_b_buffer* handle = nullptr;
  const mica_status status = device->backend->buffer_create(device->handle, bytes, &handle);
  if (status == MICA_OUT_OF_MEMORY)
    return device->error().fail(status, "out of memory: ", what, " needs ", mica::Bytes{bytes},
                                " on ", device->info.backend);
  if (status != MICA_OK) return status;
  device_ = device;
  handle_ = handle;
  bytes_ = bytes;
  return MICA_OK;
}

void mica::Buffer::reset() {
  if (handle_ != nullptr) device_->backend->buffer_free(handle_);
  handle_ = nullptr;
  bytes_ = 0;
}

extern "C" {

mica_status mica_context_add_backend(mica_context* context, const mica_backend* backend) {
  return context == nullptr ? MICA_INVALID_ARGUMENT : add(context, backend, nullptr);
}

mica_status mica_context_load_backend(mica_context* context, const char* path) {
  if (context == nullptr) return MICA_INVALID_ARGUMENT;
  Error& error = context->error;
  if (path == nullptr || path[0] == '\0') return error.invalid("path of the plug-in is missing");
  // Without a slash dlopen would search the system's directories: only the given path counts.
  char local[4096];
  if (std::strchr(path, '/') == nullptr) {
    Writer w(local, sizeof local);
    w.put("./", path);
    if (w.size() >= sizeof local) return error.invalid("path is too long");
    path = local;
  }
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    return error.fail(MICA_NOT_FOUND, "cannot load the plug-in: ", why != nullptr ? why : path);
  }
  auto entry = reinterpret_cast<mica_backend_entry_fn>(dlsym(library, "mica_backend_entry"));
  if (entry == nullptr) {
    dlclose(library);
    return error.fail(MICA_UNSUPPORTED, quoted(path),
                      " is not a plug-in: it does not export mica_backend_entry");
  }
  const mica_status status = add(context, entry(), library);
  if (status != MICA_OK) dlclose(library);
  return status;
}

mica_status mica_device_count(mica_context* context, uint32_t* out_n) {
  if (context == nullptr) return MICA_INVALID_ARGUMENT;
  if (out_n == nullptr) return context->error.null("out_n");
  const mica_host host = make_host(context);
  *out_n = 0;
  for (const mica_context::Backend& b : context->backends) *out_n += b.table->device_count(&host);
  return MICA_OK;
}

mica_status mica_device_describe(mica_context* context, uint32_t i, mica_device_info* out_info) {
  if (context == nullptr) return MICA_INVALID_ARGUMENT;
  if (out_info == nullptr) return context->error.null("out_info");
  const mica_host host = make_host(context);
  for (const mica_context::Backend& b : context->backends) {
    const uint32_t n = b.table->device_count(&host);
    if (i < n) return b.table->device_info(&host, i, out_info);
    i -= n;
  }
  return context->error.invalid("there is no such device");
}

mica_status mica_device_open(mica_context* context, const char* name, mica_device** out_device) {
  if (out_device != nullptr) *out_device = nullptr;
  if (context == nullptr) return MICA_INVALID_ARGUMENT;
  if (out_device == nullptr) return context->error.null("out_device");
  if (name == nullptr) return context->error.null("device name");
  const char* option = nullptr;
  const mica_backend* backend = find_backend(context, name, &option);
  if (backend == nullptr) return unknown_backend(context, name);
  if (std::strlen(option) >= sizeof mica_device::option)
    return context->error.fail(MICA_NOT_FOUND, "no such device: ", quoted(name));
  auto* d = mica::create<mica_device>(context->allocator);
  if (d == nullptr) return context->error.out_of_memory("device");
  d->backend = backend;
  d->host = make_host(context);
  Writer(d->option, sizeof d->option).put(option);
  context->error.clear();
  const mica_status status = backend->device_open(&d->host, d->option, &d->handle);
  if (status != MICA_OK) {
    if (context->error.code() == MICA_OK)
      context->error.fail(status, "cannot open device ", quoted(name), ": ",
                          mica_status_text(status));
    mica::destroy(context->allocator, d);
    return status;
  }
  if (backend->device_state(d->handle, &d->info) != MICA_OK) d->info = {};
  Writer(d->info.backend, sizeof d->info.backend).put(backend->name);
  d->context = mica::retain(context);
  *out_device = d;
  return MICA_OK;
}

void mica_device_release(mica_device* device) {
  if (device == nullptr || device->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  mica_context* context = device->context;
  device->backend->device_close(device->handle);
  mica::destroy(context->allocator, device);
  mica_context_release(context);
}

mica_status mica_device_get_info(const mica_device* device, mica_device_info* out_info) {
  if (device == nullptr) return MICA_INVALID_ARGUMENT;
  if (out_info == nullptr) return device->error().null("out_info");
  *out_info = device->info;
  mica_device_info now{};
  if (device->lost || device->backend->device_state(device->handle, &now) != MICA_OK)
    return MICA_OK;
  std::memcpy(now.backend, device->info.backend, sizeof now.backend);
  *out_info = now;
  return MICA_OK;
}

}  // extern "C"
