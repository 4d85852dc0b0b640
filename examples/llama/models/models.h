// The table of model architectures. A new one is a file here and a line in kArchitectures.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "../hparams.h"
#include "mica/ops.h"

namespace mica_llama {

// A tensor that an architecture knows.
struct TensorShape {
  std::string name;
  std::vector<int64_t> dim;
  bool required = true;
};

// What a graph is built from.
struct StepGraph {
  mica_graph* graph;
  mica_kv_cache* cache;
  mica_weights* weights;
  const class Model* model;
  mica_extent n_tokens;
  mica_extent n_outputs;
  int64_t max_tokens;   // maximum of n_tokens
  mica_tensor tokens;   // I32 [n_tokens]
  mica_tensor out_ids;  // I32 [n_outputs]: rows of the step whose logits are wanted

  mica_tensor weight(const std::string& name) const;
  // MICA_NO_TENSOR when the model has none of that name.
  mica_tensor optional(const std::string& name) const;
};

struct Architecture {
  const char* name;  // value of general.architecture
  Hparams (*read)(const Metadata& file);
  // Every tensor a file of this architecture may hold, with the shape it must have. The size of the
  // vocabulary is known.
  std::vector<TensorShape> (*tensors)(const Hparams& hparams);
  // The cache of one layer, its dtypes left as they are.
  void (*kv_layer)(const Hparams& hparams, uint32_t i_layer, mica_kv_layer& layer);
  // The whole network; returns the logits, F32 [n_vocab, n_outputs].
  mica_tensor (*build)(const Hparams& hparams, const StepGraph& step);
  // RoPE as layer `i_layer` has it: what moved keys are rotated by.
  mica_rope_params (*rope)(const Hparams& hparams, const StepGraph& step, uint32_t i_layer);
};

extern const Architecture kLlama;

inline constexpr const Architecture* kArchitectures[] = {
    &kLlama,
};

}  // namespace mica_llama
