// Opening models: parts, weights' description, loading.
#include "model.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "devices.h"
#include "fingerprint.h"
#include "model_file.h"
#include "tokenizer/chat.h"

namespace mica_llama {
namespace {

mica_status read_source(void* user, uint32_t i, uint64_t offset, uint64_t bytes, void* staging,
                        const void** out) {
  const auto* source = static_cast<const WeightSource*>(user);
  return guarded([&] {
    source->read(i, offset, bytes, staging);
    *out = staging;
  });
}

struct ProgressCall {
  const WeightSource* source;
  int (*progress)(void* user, uint64_t done, uint64_t total);
  void* user;
};

template <size_t N>
void copy_text(char (&dst)[N], const std::string& text) {
  std::snprintf(dst, N, "%s", text.c_str());
}

}  // namespace

uint64_t StoredTensor::n_elements() const {
  uint64_t n = 1;
  for (const int64_t d : dim) n *= static_cast<uint64_t>(d);
  return n;
}

uint64_t StoredTensor::bytes() const {
  const mica_dtype_info* d = mica_dtype_get(dtype);
  return n_elements() / d->block_elems * d->block_bytes;
}

mica_tensor StepGraph::weight(const std::string& name) const {
  return mica_weight(graph, weights, name.c_str());
}

mica_tensor StepGraph::optional(const std::string& name) const {
  return model->has_weight(name) ? weight(name) : MICA_NO_TENSOR;
}

Model::Model(const mica_llama_model_params& params)
    : device_name_(params.device != nullptr ? params.device : "cpu"), n_threads_(params.n_threads),
      cancel_(params.cancel), memory_budget_bytes_(params.memory_budget_bytes),
      progress_(params.progress), progress_user_(params.progress_user) {
  if (params.logger != nullptr) {
    logger_ = *params.logger;
    has_logger_ = true;
  }
  context_ = new_context(n_threads_, cancel_);
  std::vector<std::string> skipped;
  device_ = open_device(context_.get(), device_name_, skipped);  // "auto" becomes what it chose
  for (const std::string& line : skipped) warn(line);
}

Context Model::new_context(uint32_t n_threads, const volatile int32_t* cancel) const {
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.logger = has_logger_ ? &logger_ : nullptr;
  params.n_threads = n_threads != 0 ? n_threads : n_threads_;
  params.cancel = cancel != nullptr ? cancel : cancel_;
  params.memory_budget_bytes = memory_budget_bytes_;
  mica_context* context = nullptr;
  const mica_status status = mica_context_create(&params, &context);
  if (status != MICA_OK)
    fail(status, std::string("cannot create a context: ") + mica_status_text(status));
  Context owner(context);
  add_backends(context);
  return owner;
}

Device Model::new_device(mica_context* context) const {
  mica_device* device = nullptr;
  check(mica_device_open(context, device_name_.c_str(), &device), context);
  return Device(device);
}

void Model::warn(const std::string& text) const {
  if (has_logger_ && logger_.log != nullptr)
    logger_.log(logger_.user, MICA_LOG_WARNING, text.c_str());
}

std::shared_ptr<Model> Model::open(const char* path, const mica_llama_model_params& params) {
  std::shared_ptr<Model> model(new Model(params));
  mica_context* context = model->context_.get();
  mica_gguf* file = nullptr;
  const mica_gguf_mode mode = params.map_file != 0 ? MICA_GGUF_MAP : MICA_GGUF_READ;
  check(mica_gguf_open(context, path, mode, &file), context);
  model->file_.reset(file);
  model->set_parts(read_parts(Metadata(file, context, params.cancel)), params.yarn_factor);
  return model;
}

std::shared_ptr<Model> Model::from_parts(ModelParts parts, const mica_llama_model_params& params) {
  std::shared_ptr<Model> model(new Model(params));
  model->set_parts(std::move(parts), params.yarn_factor);
  return model;
}

void Model::set_parts(ModelParts parts, float yarn_factor) {
  parts_ = std::move(parts);
  if (yarn_factor != 0) parts_.hparams.scale_by_yarn(yarn_factor);
  parts_.hparams.validate();
  describe();
  fill_info();
}

void Model::describe() {
  mica_weights* weights = nullptr;
  check(mica_weights_create(device_.get(), &weights), context_.get());
  weights_.reset(weights);
  names_.reserve(parts_.tensors.size());
  for (size_t i = 0; i < parts_.tensors.size(); ++i) {
    const StoredTensor& t = parts_.tensors[i];
    check(mica_weights_describe(weights, t.name.c_str(), t.dtype,
                                static_cast<uint32_t>(t.dim.size()), t.dim.data()),
          context_.get());
    names_.emplace(t.name, i);
  }
}

void Model::fill_info() {
  const Hparams& h = parts_.hparams;
  mica_llama_model_info& info = info_;
  for (const StoredTensor& t : parts_.tensors) {
    info.n_params += t.n_elements();
    info.file_bytes += t.bytes();
  }
  if (parts_.size_label.empty()) parts_.size_label = size_label(info.n_params);
  if (parts_.type_label.empty()) parts_.type_label = dominant_type(parts_.tensors);
  copy_text(info.description, std::string(architecture().name) + " " +
                                  escaped(parts_.size_label, 16) + " " + parts_.type_label);
  mica_device_info device{};
  check(mica_device_get_info(device_.get(), &device), context_.get());
  copy_text(info.device, std::string(device.backend) + ": " + device.name);
  info.n_vocab = h.n_vocab;
  info.n_ctx_train = h.n_ctx_train;
  info.n_embd = h.n_embd;
  info.n_layers = h.n_layers;
  info.n_heads = h.n_heads;
  info.n_kv_heads = h.n_kv_heads;
  for (uint32_t i = 0; i < h.n_layers; ++i) {
    mica_kv_layer layer = MICA_KV_LAYER_INIT;
    architecture().kv_layer(h, i, layer);
    info.n_kv_layers += layer.source == MICA_KV_NO_SOURCE ? 1 : 0;
  }
  info.bos = info.eos = -1;
  if (parts_.tokenizer == nullptr) return;
  info.has_tokenizer = 1;
  info.is_chatml = is_chatml(parts_.chat_template) ? 1 : 0;
  info.bos = parts_.tokenizer->bos();
  info.eos = parts_.tokenizer->eos();
  info.adds_bos = parts_.tokenizer->adds_bos() ? 1 : 0;
}

const Tokenizer& Model::tokenizer() const {
  if (parts_.tokenizer == nullptr) fail(MICA_UNSUPPORTED, "the model has no tokenizer");
  return *parts_.tokenizer;
}

void Model::load() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (is_loaded()) return;
  if (memory_budget_bytes_ != 0 && mica_weights_bytes(weights_.get()) > memory_budget_bytes_)
    fail(MICA_OVER_BUDGET, "the weights need " +
                               std::to_string(mica_weights_bytes(weights_.get())) +
                               " bytes, the budget is " + std::to_string(memory_budget_bytes_));
  fingerprint_ = fingerprint_of(parts_, file_.get(), context_.get());
  if (parts_.source == nullptr) {
    check(mica_weights_load_gguf(weights_.get(), file_.get(), progress_, progress_user_),
          context_.get());
    file_.reset();  // the weights have what they need
    return;
  }
  ProgressCall call{parts_.source.get(), progress_, progress_user_};
  mica_weight_source source{};
  source.user = &call;
  source.read = [](void* user, uint32_t i, uint64_t offset, uint64_t bytes, void* staging,
                   const void** out) {
    const WeightSource* from = static_cast<ProgressCall*>(user)->source;
    return read_source(const_cast<WeightSource*>(from), i, offset, bytes, staging, out);
  };
  source.progress = [](void* user, uint64_t done, uint64_t total) {
    const auto* c = static_cast<ProgressCall*>(user);
    return c->progress != nullptr ? c->progress(c->user, done, total) : 0;
  };
  constexpr uint64_t kSeed = 1;
  check(parts_.is_random ? mica_weights_load_random(weights_.get(), &source, kSeed)
                         : mica_weights_load(weights_.get(), &source),
        context_.get());
}

}  // namespace mica_llama
