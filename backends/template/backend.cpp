// A backend that does nothing yet: copy this folder, rename it, and fill in the functions. It
// builds as a plug-in, loads, opens, and answers "unsupported" with a reason to every node, so
//   conformance --plugin build/release/lib/libmica_backend_template.so --backend template
// runs from the first minute. docs/backends.md is the guide; backends/ref is the smallest complete
// example. Keep every type in a namespace of your own: two backends live in one process.
#include "mica/backend.h"

#include <stdlib.h>
#include <string.h>

namespace {

// Whatever your device needs. The handles of the boundary are opaque: cast to your own types.
struct Device {
  const mica_host* host;
};
struct Memory {
  char* data;
  uint64_t bytes;
};

Device* of(mica_b_device* d) { return reinterpret_cast<Device*>(d); }
Memory* of(mica_b_buffer* b) { return reinterpret_cast<Memory*>(b); }

mica_status fail(const mica_host* host, mica_status status, const char* text) {
  host->set_error(host->user, status, text);
  return status;
}

// The answer of everything that is not written yet: a status, and a reason where one is asked for.
mica_status no(char* reason, size_t capacity) {
  const char text[] = "the template runs nothing";
  if (capacity >= sizeof text) memcpy(reason, text, sizeof text);
  return MICA_UNSUPPORTED;
}

// -- Devices --

uint32_t device_count(const mica_host*) { return 1; }

mica_status device_info(const mica_host*, uint32_t, mica_device_info* out) {
  memset(out, 0, sizeof *out);
  memcpy(out->backend, "template", sizeof "template");
  memcpy(out->name, "no device", sizeof "no device");
  return MICA_OK;
}

mica_status device_state(mica_b_device*, mica_device_info* out) {
  return device_info(nullptr, 0, out);
}

mica_status device_open(const mica_host* host, const char* option, mica_b_device** out) {
  if (option[0] != '\0') return fail(host, MICA_NOT_FOUND, "the template has no options");
  auto* d = static_cast<Device*>(host->allocator->alloc(host->allocator->user, sizeof(Device), 16));
  if (d == nullptr) return fail(host, MICA_OUT_OF_MEMORY, "out of memory: device");
  d->host = host;
  *out = reinterpret_cast<mica_b_device*>(d);
  return MICA_OK;
}

void device_close(mica_b_device* d) {
  const mica_allocator* a = of(d)->host->allocator;
  a->free(a->user, d, sizeof(Device));
}

// -- Buffers: here plain host memory --

mica_status buffer_create(mica_b_device*, uint64_t bytes, mica_b_buffer** out) {
  auto* b = static_cast<Memory*>(malloc(sizeof(Memory)));
  void* data = nullptr;
  if (b == nullptr || posix_memalign(&data, 256, static_cast<size_t>(bytes)) != 0) {
    free(b);
    return MICA_OUT_OF_MEMORY;
  }
  memset(data, 0, static_cast<size_t>(bytes));
  *b = {static_cast<char*>(data), bytes};
  *out = reinterpret_cast<mica_b_buffer*>(b);
  return MICA_OK;
}
void buffer_free(mica_b_buffer* b) {
  free(of(b)->data);
  free(b);
}
void* buffer_map(mica_b_buffer* b) { return of(b)->data; }
mica_status buffer_write(mica_b_buffer* b, uint64_t offset, const void* src, uint64_t bytes) {
  memcpy(of(b)->data + offset, src, static_cast<size_t>(bytes));
  return MICA_OK;
}
mica_status buffer_read(mica_b_buffer* b, uint64_t offset, void* dst, uint64_t bytes) {
  memcpy(dst, of(b)->data + offset, static_cast<size_t>(bytes));
  return MICA_OK;
}
mica_status buffer_copy(mica_b_buffer* dst, uint64_t to, mica_b_buffer* src, uint64_t from,
                        uint64_t bytes) {
  memmove(of(dst)->data + to, of(src)->data + from, static_cast<size_t>(bytes));
  return MICA_OK;
}

// -- Weights: kept as GGUF has them. Choose a layout of your own when the speed needs it --

// stride[1] of a described weight is its row's bytes.
uint64_t row_bytes(const mica_b_value* w) { return static_cast<uint64_t>(w->stride[1]); }

mica_status weight_layout(mica_b_device*, const mica_b_value* w, uint32_t* out_layout,
                          uint64_t* out_bytes, uint32_t* out_granule_rows) {
  *out_layout = 0;
  *out_bytes = row_bytes(w) * static_cast<uint64_t>(w->dim[1] * w->dim[2] * w->dim[3]);
  *out_granule_rows = 1;
  return MICA_OK;
}
mica_status weight_pack(mica_b_device*, const mica_b_value* w, mica_b_buffer* b, const void* rows,
                        uint64_t first, uint64_t n) {
  return buffer_write(b, w->offset + first * row_bytes(w), rows, n * row_bytes(w));
}
mica_status weight_unpack(mica_b_device*, const mica_b_value* w, mica_b_buffer* b, void* rows,
                          uint64_t first, uint64_t n) {
  return buffer_read(b, w->offset + first * row_bytes(w), rows, n * row_bytes(w));
}

mica_status kv_layout(mica_b_device* d, const mica_b_kv_desc*, uint32_t*, uint64_t*) {
  return fail(of(d)->host, MICA_UNSUPPORTED, "the template keeps no KV cache");
}

// -- Compiling and running --

// How many bytes of an op's options your kernels know: to the end of the last field that they read,
// for MICA_OP_rope offsetof(mica_rope_args, magnitude) + sizeof(float). Never the struct's size,
// which grows with mica: an option that your kernels have not heard of would be ignored without a
// word. MICA_B_NONE where there is no kernel: supports() says why not.
uint32_t args_bytes(mica_b_device*, uint32_t) { return MICA_B_NONE; }

mica_status supports(mica_b_device*, const mica_b_partition*, uint32_t, char* reason,
                     size_t capacity) {
  return no(reason, capacity);
}
mica_status claims(mica_b_device*, const mica_b_partition*, uint32_t, char* reason,
                   size_t capacity) {
  return no(reason, capacity);
}
mica_status query(mica_b_device*, const mica_b_partition*, uint32_t, mica_b_need*) {
  return MICA_UNSUPPORTED;
}
mica_status compile(mica_b_device* d, const mica_b_partition*, mica_b_buffer* const*,
                    mica_b_plan**) {
  return fail(of(d)->host, MICA_UNSUPPORTED, "the template compiles nothing");
}
mica_status submit(mica_b_plan*) { return MICA_UNSUPPORTED; }
mica_status wait(mica_b_plan*) { return MICA_UNSUPPORTED; }
void plan_release(mica_b_plan*) {}

const mica_backend kBackend = {sizeof(mica_backend),
                               MICA_BACKEND_ABI,
                               "template",
                               device_count,
                               device_info,
                               device_open,
                               device_close,
                               device_state,
                               buffer_create,
                               buffer_free,
                               nullptr,
                               buffer_map,
                               buffer_write,
                               buffer_read,
                               buffer_copy,
                               weight_layout,
                               weight_pack,
                               weight_unpack,
                               nullptr,
                               kv_layout,
                               nullptr,  // kv_pack, kv_unpack: with a KV cache
                               nullptr,
                               args_bytes,
                               supports,
                               claims,
                               nullptr,  // value_layout: all temporaries are plain rows
                               query,
                               compile,
                               submit,
                               wait,
                               plan_release,
                               nullptr,   // reserve: nothing beside buffers
                               nullptr};  // variants: an op has one kernel

}  // namespace

extern "C" __attribute__((visibility("default"))) const mica_backend* mica_backend_entry(void) {
  return &kBackend;
}
