// Reading a model's parts out of a GGUF file.
#pragma once
#include "model.h"

namespace mica_llama {

// Everything but the weights' data, checked against the architecture: each tensor it needs is
// there, each has the shape it must have, and there is none it does not know.
ModelParts read_parts(const Metadata& file);

// "135M", "1.1B": a parameter count in words.
std::string size_label(uint64_t n_params);
// The type that most bytes of the tensors have, in upper case.
std::string dominant_type(const std::vector<StoredTensor>& tensors);

}  // namespace mica_llama
