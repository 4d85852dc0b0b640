// What tells one model from another, for saved sequences.
#pragma once
#include <cstddef>
#include <cstdint>

#include "model.h"

namespace mica_llama {

// FNV-1a.
uint64_t hash(const void* data, size_t bytes, uint64_t h = 0xcbf29ce484222325u);

// Of the architecture, the hyper-parameters, every tensor's name, dtype and shape, and, where there
// is a `file` (else nullptr), the texts of its vocabulary and a sample of its weights: 2 KiB from
// the middle of 64 tensors at most. So another training or another quantization is another model,
// unless it changed nothing of the sample.
uint64_t fingerprint_of(const ModelParts& parts, mica_gguf* file, mica_context* context);

}  // namespace mica_llama
