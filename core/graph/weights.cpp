// Describing weights, streaming them to the device, and reading them back.
#include "core/graph/weights.h"

using mica::Error;
using mica::quoted;
using mica::WeightEntry;

namespace {

constexpr uint64_t kAlign = 256;

mica_status refuse(mica_weights* w, const char* name, const char* why) {
  return w->device->error().invalid("weight ", quoted(name), ": ", why);
}

// The weight of this name, of which something goes to `dst`, the parameter `what`.
mica_status find(const mica_weights* w, const char* name, const void* dst, const char* what,
                 const WeightEntry*& out) {
  Error& error = w->device->error();
  if (name == nullptr || dst == nullptr) return error.null(name == nullptr ? "name" : what);
  const uint32_t i = mica::find_weight(w, name);
  if (i == MICA_B_NONE) return error.fail(MICA_NOT_FOUND, "weight ", quoted(name), " is not there");
  out = &w->entries[i];
  return MICA_OK;
}

struct Loading {
  const mica_weight_source* source;
  const uint64_t* seed;  // nullptr: nothing is random
  uint64_t done = 0, total = 0;
};

mica_status check_cancel(mica_weights* w, bool stop) {
  if (!stop && !w->device->context->cancelled()) return MICA_OK;
  return w->device->error().fail(MICA_CANCELLED, "loading was cancelled");
}

mica_status report(mica_weights* w, Loading& loading, uint64_t bytes) {
  loading.done += bytes;
  const mica_weight_source& s = *loading.source;
  return check_cancel(
      w, s.progress != nullptr && s.progress(s.user, loading.done, loading.total) != 0);
}

mica_status load_one(mica_weights* w, uint32_t i, void* staging, Loading& loading) {
  mica_device* device = w->device;
  const WeightEntry& e = w->entries[i];
  if (loading.seed != nullptr && e.desc.rank > 1 && device->backend->weight_random != nullptr) {
    const mica_status status = device->backend->weight_random(
        device->handle, &e.value, w->buffer.handle(), *loading.seed + i);
    if (status == MICA_OK) return report(w, loading, e.plain_bytes);
    if (status != MICA_UNSUPPORTED) return status;
  }
  const uint64_t rows = e.rows(), row = e.row_bytes(), step = e.chunk_rows(e.granule_rows);
  for (uint64_t first = 0; first < rows; first += step) {
    const uint64_t n = rows - first < step ? rows - first : step;
    MICA_TRY(check_cancel(w, false));
    const void* data = nullptr;
    device->error().clear();
    const mica_status status =
        loading.source->read(loading.source->user, i, first * row, n * row, staging, &data);
    if (status != MICA_OK || data == nullptr) {
      if (device->error().code() != MICA_OK) return status;
      return device->error().fail(status == MICA_OK ? MICA_IO : status, "the source has no data ",
                                  "of weight ", quoted(e.name.c_str()));
    }
    MICA_TRY(
        device->backend->weight_pack(device->handle, &e.value, w->buffer.handle(), data, first, n));
    MICA_TRY(report(w, loading, n * row));
  }
  return MICA_OK;
}

mica_status check_free(const mica_weights* w) {
  const uint64_t free = mica::free_bytes(w->device);
  if (free == 0 || w->bytes <= free) return MICA_OK;
  return w->device->error().fail(MICA_OVER_BUDGET, "the weights need ", mica::Bytes{w->bytes}, ", ",
                                 w->device->info.backend, " has ", mica::Bytes{free},
                                 " free; take a smaller model, or one of fewer bits");
}

mica_status load_all(mica_weights* weights, Loading loading) {
  Error& error = weights->device->error();
  if (loading.source == nullptr || loading.source->read == nullptr)
    return error.invalid("weights: the source has no read function");
  if (weights->loaded) return error.invalid("the weights are loaded already");
  MICA_TRY(check_free(weights));
  uint64_t most = 0;
  for (const WeightEntry& e : weights->entries)
    most = std::max(most, e.chunk_rows(e.granule_rows) * e.row_bytes());
  mica::Vec<char> staging(weights->device->allocator());
  if (!staging.resize(static_cast<size_t>(most))) return error.out_of_memory("staging for weights");
  MICA_TRY(weights->buffer.create(weights->device, weights->bytes, "the weights"));
  for (const WeightEntry& e : weights->entries) loading.total += e.plain_bytes;
  for (uint32_t i = 0; i < weights->entries.size(); ++i) {
    const mica_status status = load_one(weights, i, staging.data(), loading);
    if (status != MICA_OK) {
      weights->buffer.reset();
      return status;
    }
  }
  weights->loaded = true;
  return MICA_OK;
}

struct GgufSource {
  mica_gguf* file;
  const mica_weights* weights;
  int (*progress)(void* user, uint64_t done, uint64_t total);
  void* user;
};

mica_status gguf_read(void* user, uint32_t i, uint64_t offset, uint64_t bytes, void* staging,
                      const void** out) {
  auto* s = static_cast<GgufSource*>(user);
  const WeightEntry& e = s->weights->entries[i];
  const mica_gguf_tensor* t = mica_gguf_tensor_find(s->file, e.name.c_str());
  if (t == nullptr || t->bytes != e.plain_bytes || t->dtype != e.desc.dtype ||
      t->dim[0] != e.desc.dim[0])
    return s->weights->device->error().invalid("weight ", quoted(e.name.c_str()),
                                               " is not in this file as it was described");
  if (const void* mapped = mica_gguf_map(s->file, t); mapped != nullptr) {
    *out = static_cast<const char*>(mapped) + offset;
    return MICA_OK;
  }
  *out = staging;
  return mica_gguf_read(s->file, t, offset, bytes, staging);
}

int gguf_progress(void* user, uint64_t done, uint64_t total) {
  auto* s = static_cast<GgufSource*>(user);
  return s->progress != nullptr ? s->progress(s->user, done, total) : 0;
}

}  // namespace

uint32_t mica::find_weight(const mica_weights* w, const char* name) {
  return w->names.find(name, [w](uint32_t i) { return w->entries[i].name.c_str(); });
}

extern "C" {

mica_status mica_weights_create(mica_device* device, mica_weights** out_weights) {
  if (out_weights != nullptr) *out_weights = nullptr;
  if (device == nullptr) return MICA_INVALID_ARGUMENT;
  if (out_weights == nullptr) return device->error().null("out_weights");
  *out_weights = mica::create<mica_weights>(device->allocator(), device);
  return *out_weights != nullptr ? MICA_OK : device->error().out_of_memory("weights");
}

void mica_weights_retain(mica_weights* weights) {
  if (weights != nullptr) weights->references.fetch_add(1, std::memory_order_relaxed);
}

void mica_weights_release(mica_weights* weights) {
  if (weights == nullptr || weights->references.fetch_sub(1, std::memory_order_acq_rel) != 1)
    return;
  mica_device* device = mica::retain(weights->device);  // keeps the allocator while destroying
  mica::destroy(device->allocator(), weights);
  mica_device_release(device);
}

mica_status mica_weights_describe(mica_weights* weights, const char* name, mica_dtype dtype,
                                  uint32_t rank, const int64_t* dim) {
  if (weights == nullptr) return MICA_INVALID_ARGUMENT;
  if (name == nullptr || name[0] == '\0' || dim == nullptr)
    return refuse(weights, "", "name or dimensions are missing");
  if (weights->buffer.handle() != nullptr) return refuse(weights, name, "weights are loaded");
  if (mica::find_weight(weights, name) != MICA_B_NONE)
    return refuse(weights, name, "described twice");
  mica_device* device = weights->device;
  const mica::DtypeDef* def = mica::find_dtype(static_cast<uint32_t>(dtype));
  if (def == nullptr) return refuse(weights, name, "no such dtype");
  WeightEntry e(device->allocator());
  Error why;
  if (!mica::tensor_bytes(def->info, rank, dim, e.plain_bytes, why))
    return refuse(weights, name, why.text());
  e.desc = mica::make_desc(dtype, rank, dim);
  e.value = mica::make_value(e.desc);
  mica_b_value& v = e.value;
  v.storage = MICA_B_WEIGHT;
  uint64_t end = 0, next = 0;
  MICA_TRY(
      device->backend->weight_layout(device->handle, &v, &v.layout, &v.bytes, &e.granule_rows));
  if (!mica::checked_align(weights->bytes, kAlign, v.offset) ||
      !mica::checked_add(v.offset, v.bytes, end) || !mica::checked_align(end, kAlign, next))
    return refuse(weights, name, "the weights are too large in all");
  const auto index = static_cast<uint32_t>(weights->entries.size());
  if (!e.name.assign(name) || !weights->entries.push(std::move(e)))
    return device->error().out_of_memory("weights");
  const auto name_of = [weights](uint32_t i) { return weights->entries[i].name.c_str(); };
  if (!weights->names.insert(name, index, name_of)) {
    weights->entries.pop();
    return device->error().out_of_memory("weights");
  }
  weights->bytes = next;
  return MICA_OK;
}

mica_status mica_weights_describe_gguf(mica_weights* weights, const mica_gguf* file) {
  if (weights == nullptr) return MICA_INVALID_ARGUMENT;
  if (file == nullptr) return weights->device->error().null("file");
  for (uint64_t i = 0; i < mica_gguf_n_tensors(file); ++i) {
    const mica_gguf_tensor* t = mica_gguf_tensor_at(file, i);
    MICA_TRY(mica_weights_describe(weights, t->name, t->dtype, t->rank, t->dim));
  }
  return MICA_OK;
}

mica_status mica_weights_info(const mica_weights* weights, const char* name,
                              mica_tensor_info* out_info) {
  if (weights == nullptr) return MICA_INVALID_ARGUMENT;
  const WeightEntry* e = nullptr;
  MICA_TRY(find(weights, name, out_info, "out_info", e));
  const mica::Desc& d = e->desc;
  *out_info = {d.dtype, d.rank, {d.dim[0], d.dim[1], d.dim[2], d.dim[3]}, {0, 0}};
  return MICA_OK;
}

uint32_t mica_weights_count(const mica_weights* weights) {
  return weights != nullptr ? static_cast<uint32_t>(weights->entries.size()) : 0;
}
const char* mica_weights_name(const mica_weights* weights, uint32_t i) {
  return weights != nullptr && i < weights->entries.size() ? weights->entries[i].name.c_str()
                                                           : nullptr;
}
uint64_t mica_weights_bytes(const mica_weights* weights) {
  return weights != nullptr ? weights->bytes : 0;
}
int mica_weights_is_loaded(const mica_weights* weights) {
  return weights != nullptr && weights->loaded ? 1 : 0;
}

mica_status mica_weights_load(mica_weights* weights, const mica_weight_source* source) {
  return weights == nullptr ? MICA_INVALID_ARGUMENT : load_all(weights, {source, nullptr});
}

mica_status mica_weights_load_random(mica_weights* weights, const mica_weight_source* source,
                                     uint64_t seed) {
  return weights == nullptr ? MICA_INVALID_ARGUMENT : load_all(weights, {source, &seed});
}

mica_status mica_weights_load_gguf(mica_weights* weights, mica_gguf* file,
                                   int (*progress)(void* user, uint64_t done, uint64_t total),
                                   void* user) {
  if (weights == nullptr) return MICA_INVALID_ARGUMENT;
  if (file == nullptr) return weights->device->error().null("file");
  GgufSource state{file, weights, progress, user};
  const mica_weight_source source{&state, gguf_read, gguf_progress};
  return mica_weights_load(weights, &source);
}

mica_status mica_weights_read(mica_weights* weights, const char* name, void* dst, uint64_t bytes) {
  if (weights == nullptr) return MICA_INVALID_ARGUMENT;
  Error& error = weights->device->error();
  const WeightEntry* e = nullptr;
  MICA_TRY(find(weights, name, dst, "dst", e));
  if (!weights->loaded) return refuse(weights, name, "the weights are not loaded");
  if (bytes != e->plain_bytes)
    return error.invalid("weight ", quoted(name), " has ", e->plain_bytes, " bytes, not ", bytes);
  return weights->device->backend->weight_unpack(weights->device->handle, &e->value,
                                                 weights->buffer.handle(), dst, 0, e->rows());
}

}  // extern "C"
