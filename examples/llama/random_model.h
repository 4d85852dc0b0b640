// Models of random weights in the shapes of real ones: to measure speed without their files.
#pragma once
#include <string_view>

#include "gguf_writer.h"
#include "model.h"

namespace mica_llama {

// `shape` is NAME:TYPE, see mica_llama_shape_open. Weights are made as they are read, the same ones
// each time. Fails with INVALID_ARGUMENT and the names there are.
ModelParts random_parts(std::string_view shape);

// The same model as a GGUF file with a SentencePiece-style tokenizer of made-up words.
void write_random_model(std::string_view shape, const std::string& path, Progress progress);

// Fills `bytes` of a tensor from byte `offset` (both whole blocks) with random blocks whose values
// have a mean of about 0 and a deviation of about 0.02; the same (seed, offset) gives the same.
void fill_random_blocks(mica_dtype dtype, uint64_t seed, uint64_t offset, uint64_t bytes,
                        void* dst);

// `dtype`, or the type that takes its place when rows of so many elements are not whole blocks of
// it: Q5_0 for Q4_K, Q5_1 for Q5_K, Q8_0 for Q6_K, F16 when those do not fit either.
mica_dtype storable_type(mica_dtype dtype, int64_t row_elements);

}  // namespace mica_llama
