// A model: hyper-parameters, tokenizer and weights, shared by sessions.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "handles.h"
#include "hparams.h"
#include "mica_llama.h"
#include "models/models.h"
#include "tokenizer/tokenizer.h"

namespace mica_llama {

// A weight as it is stored.
struct StoredTensor {
  std::string name;
  mica_dtype dtype = MICA_F32;
  std::vector<int64_t> dim;

  uint64_t n_elements() const;
  uint64_t bytes() const;
};

// Where weights come from when there is no file.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // `bytes` of tensor `i` from `offset`, both whole blocks.
  virtual void read(size_t i, uint64_t offset, uint64_t bytes, void* dst) const = 0;
};

// What a model is made of, wherever it came from.
struct ModelParts {
  const Architecture* architecture = nullptr;
  Hparams hparams;
  std::vector<StoredTensor> tensors;
  std::unique_ptr<WeightSource> source;  // nullptr: the GGUF file
  bool is_random = false;                // what its matrices hold does not matter
  std::unique_ptr<Tokenizer> tokenizer;  // nullptr: none
  std::string chat_template;
  std::string size_label;  // "135M"
  std::string type_label;  // "Q4_1"
};

class Model {
 public:
  static std::shared_ptr<Model> open(const char* path, const mica_llama_model_params& params);
  static std::shared_ptr<Model> from_parts(ModelParts parts, const mica_llama_model_params& params);

  void load();
  // Read under mutex(); weights become loaded once and stay so.
  bool is_loaded() const { return mica_weights_is_loaded(weights_.get()) != 0; }
  std::mutex& mutex() { return mutex_; }

  const Hparams& hparams() const { return parts_.hparams; }
  const Architecture& architecture() const { return *parts_.architecture; }
  const Tokenizer& tokenizer() const;  // fails with UNSUPPORTED when there is none
  const std::string& chat_template() const { return parts_.chat_template; }
  const mica_llama_model_info& info() const { return info_; }
  bool has_weight(const std::string& name) const { return names_.count(name) != 0; }
  // What tells it from another model, fingerprint.h; once it is loaded.
  uint64_t fingerprint() const { return fingerprint_; }
  mica_weights* weights() const { return weights_.get(); }
  uint64_t memory_budget_bytes() const { return memory_budget_bytes_; }
  void warn(const std::string& text) const;

  // A context and device of the caller's own, on the same device as the weights.
  Context new_context(uint32_t n_threads, const volatile int32_t* cancel) const;
  Device new_device(mica_context* context) const;

 private:
  explicit Model(const mica_llama_model_params& params);
  void set_parts(ModelParts parts, float yarn_factor);
  void describe();
  void fill_info();

  std::string device_name_;
  uint32_t n_threads_;
  mica_logger logger_{};
  bool has_logger_ = false;
  const volatile int32_t* cancel_;
  uint64_t memory_budget_bytes_;
  int (*progress_)(void* user, uint64_t done, uint64_t total);
  void* progress_user_;

  std::mutex mutex_;
  Context context_;
  Device device_;
  GgufFile file_;
  ModelParts parts_;
  std::unordered_map<std::string, size_t> names_;  // of tensors, to their index
  Weights weights_;
  mica_llama_model_info info_{};
  uint64_t fingerprint_ = 0;
};

}  // namespace mica_llama
