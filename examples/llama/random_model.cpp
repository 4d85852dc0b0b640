// Shapes of real models, the types of their tensors, and a made-up vocabulary.
#include "random_model.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <numbers>

namespace mica_llama {
namespace {

struct Shape {
  const char* name;
  uint32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, n_vocab, n_ctx_train;
  float rope_base, norm_eps;
  bool tied;
  float rope_factor;  // of Llama 3's scaling; 0: none
};

constexpr Shape kShapes[] = {
    {"tinyllama-1.1b", 22, 2048, 5632, 32, 4, 64, 32000, 2048, 1e4f, 1e-5f, false, 0},
    {"smollm2-135m", 30, 576, 1536, 9, 3, 64, 49152, 8192, 1e5f, 1e-5f, true, 0},
    {"llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 5e5f, 1e-5f, true, 32},
    {"llama-3.1-8b", 32, 4096, 14336, 32, 8, 128, 128256, 131072, 5e5f, 1e-5f, false, 8},
    {"llama-70b", 80, 8192, 28672, 64, 8, 128, 128256, 131072, 5e5f, 1e-5f, false, 8},
    {"mha-7b", 32, 4096, 11008, 32, 32, 128, 32000, 4096, 1e4f, 1e-5f, false, 0},
};

// A type of file: that of most tensors; whether half of two kinds get Q6_K; GGUF's number.
struct FileType {
  const char* name;
  mica_dtype dtype;
  bool is_mix;
  uint32_t number;
};

constexpr FileType kTypes[] = {
    {"f32", MICA_F32, false, 0},    {"f16", MICA_F16, false, 1},    {"bf16", MICA_BF16, false, 32},
    {"q8_0", MICA_Q8_0, false, 7},  {"q4_0", MICA_Q4_0, false, 2},  {"q4_1", MICA_Q4_1, false, 3},
    {"q5_0", MICA_Q5_0, false, 8},  {"q5_1", MICA_Q5_1, false, 9},  {"q4_k", MICA_Q4_K, false, 14},
    {"q5_k", MICA_Q5_K, false, 16}, {"q6_k", MICA_Q6_K, false, 18}, {"q4_k_m", MICA_Q4_K, true, 15},
    {"q5_k_m", MICA_Q5_K, true, 17}};

struct Chosen {
  const Shape* shape;
  const FileType* type;
};

template <class Table>
std::string names_of(const Table& table) {
  std::string names;
  for (const auto& row : table) {
    if (!names.empty()) names.push_back(' ');
    names.append(row.name);
  }
  return names;
}

Chosen choose(std::string_view text) {
  const size_t colon = std::min(text.find(':'), text.size());
  const std::string_view name = text.substr(0, colon);
  const std::string_view type = colon < text.size() ? text.substr(colon + 1) : "";
  Chosen chosen{};
  for (const Shape& s : kShapes)
    if (name == s.name) chosen.shape = &s;
  for (const FileType& t : kTypes)
    if (type == t.name) chosen.type = &t;
  if (chosen.shape == nullptr || chosen.type == nullptr)
    fail(MICA_INVALID_ARGUMENT, "the shape '" + escaped(text) + "' is not NAME:TYPE; names: " +
                                    names_of(kShapes) + "; types: " + names_of(kTypes));
  return chosen;
}

Hparams hparams_of(const Shape& s) {
  Hparams h;
  h.n_layers = s.n_layers;
  h.n_embd = s.n_embd;
  h.n_ff = s.n_ff;
  h.n_heads = s.n_heads;
  h.n_kv_heads = s.n_kv_heads;
  h.head_dim_k = h.head_dim_v = h.n_rot = s.head_dim;
  h.n_vocab = s.n_vocab;
  h.n_ctx_train = h.rope_n_ctx_orig = s.n_ctx_train;
  h.norm_eps = s.norm_eps;
  h.rope_base = s.rope_base;
  return h;
}

// Files called ..._K_M keep Q6_K for the values and down projections of the first and last eighth
// of the layers and of every third in between.
bool has_more_bits(uint32_t i_layer, uint32_t n_layers) {
  const uint32_t eighth = n_layers / 8;
  return i_layer < eighth || i_layer >= 7 * n_layers / 8 || (i_layer - eighth) % 3 == 2;
}

mica_dtype tensor_type(const TensorShape& t, const Shape& s, const FileType& type) {
  if (t.dim.size() == 1) return MICA_F32;
  mica_dtype dtype = type.dtype;
  const bool is_float = dtype == MICA_F32 || dtype == MICA_F16 || dtype == MICA_BF16;
  const bool is_output = t.name == "output.weight" || (s.tied && t.name == "token_embd.weight");
  if (is_output && !is_float && dtype != MICA_Q8_0) dtype = MICA_Q6_K;
  const bool is_mixed =
      t.name.find("attn_v.") != t.name.npos || t.name.find("ffn_down.") != t.name.npos;
  if (type.is_mix && is_mixed) {
    const auto i_layer = static_cast<uint32_t>(std::stoul(t.name.substr(4)));  // "blk.N."
    if (has_more_bits(i_layer, s.n_layers)) dtype = MICA_Q6_K;
  }
  return storable_type(dtype, t.dim[0]);
}

bool is_present(const TensorShape& t, const Shape& s) {
  if (t.name == "output.weight") return !s.tied;
  if (t.name == "rope_freqs.weight") return s.rope_factor != 0;
  return t.required;
}

// Llama 3's stretching of the slow angles (Llama 3 model card; low 1, high 4, 8192 tokens).
std::vector<float> rope_factors(const Shape& s) {
  constexpr double kContext = 8192, kLow = 1, kHigh = 4;
  std::vector<float> factors(s.head_dim / 2);
  for (size_t i = 0; i < factors.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / s.head_dim;
    const double wavelength = 2 * std::numbers::pi * std::pow(double{s.rope_base}, exponent);
    const double smooth = std::clamp((kContext / wavelength - kLow) / (kHigh - kLow), 0.0, 1.0);
    factors[i] = static_cast<float>(1 / ((1 - smooth) / double{s.rope_factor} + smooth));
  }
  return factors;
}

class RandomSource : public WeightSource {
 public:
  RandomSource(const Shape& shape, std::vector<StoredTensor> tensors)
      : factors_(rope_factors(shape)), tensors_(std::move(tensors)) {}

  void read(size_t i, uint64_t offset, uint64_t bytes, void* dst) const override {
    const StoredTensor& t = tensors_.at(i);
    const mica_dtype_info* d = mica_dtype_get(t.dtype);
    if (offset % d->block_bytes != 0 || bytes % d->block_bytes != 0)
      fail(MICA_INTERNAL, "weights are read in parts of blocks");
    if (t.dim.size() != 1) return fill_random_blocks(t.dtype, i, offset, bytes, dst);
    auto* out = static_cast<float*>(dst);
    const auto first = static_cast<size_t>(offset / sizeof(float));
    const bool is_rope = t.name == "rope_freqs.weight";
    for (size_t k = 0; k < bytes / sizeof(float); ++k)
      out[k] = is_rope ? factors_.at(first + k) : 1.0f;  // weights of norms are 1
  }

 private:
  std::vector<float> factors_;
  std::vector<StoredTensor> tensors_;
};

std::string letters(uint32_t i) {
  std::string text;
  for (uint32_t n = i + 1; n != 0; n = (n - 1) / 26)
    text.insert(text.begin(), static_cast<char>('a' + (n - 1) % 26));
  return text;
}

// unk, bos, eos, the 256 bytes, the letters, then made-up words.
void add_vocabulary(GgufWriter& file, uint32_t n_vocab) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  static constexpr char kSpace[] = "\xe2\x96\x81";
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  for (uint32_t b = 0; b < 256; ++b)
    tokens.push_back({'<', '0', 'x', kHex[b >> 4], kHex[b & 15], '>'});
  types.resize(tokens.size(), 6);
  tokens.push_back(kSpace);
  for (uint32_t i = 0; i < 26; ++i) tokens.push_back(letters(i));
  for (uint32_t i = 0; tokens.size() < n_vocab; ++i) tokens.push_back(kSpace + letters(i));
  types.resize(tokens.size(), 1);
  std::vector<float> scores(tokens.size());
  for (size_t i = 259; i < scores.size(); ++i) scores[i] = -static_cast<float>(i - 258);
  file.add_string("tokenizer.ggml.model", "llama");
  file.add_string("tokenizer.ggml.pre", "default");
  file.add_string_array("tokenizer.ggml.tokens", tokens);
  file.add_array("tokenizer.ggml.scores", MICA_GGUF_F32, scores);
  file.add_array("tokenizer.ggml.token_type", MICA_GGUF_I32, types);
  file.add_u32("tokenizer.ggml.unknown_token_id", 0);
  file.add_u32("tokenizer.ggml.bos_token_id", 1);
  file.add_u32("tokenizer.ggml.eos_token_id", 2);
}

void add_keys(GgufWriter& file, const Shape& s, const FileType& type) {
  file.add_string("general.architecture", "llama");
  file.add_string("general.name", std::string("random ") + s.name + ":" + type.name);
  file.add_u32("general.file_type", type.number);
  file.add_u32("general.quantization_version", 2);
  file.add_u32("llama.block_count", s.n_layers);
  file.add_u32("llama.context_length", s.n_ctx_train);
  file.add_u32("llama.embedding_length", s.n_embd);
  file.add_u32("llama.feed_forward_length", s.n_ff);
  file.add_u32("llama.attention.head_count", s.n_heads);
  file.add_u32("llama.attention.head_count_kv", s.n_kv_heads);
  file.add_u32("llama.attention.key_length", s.head_dim);
  file.add_u32("llama.attention.value_length", s.head_dim);
  file.add_u32("llama.rope.dimension_count", s.head_dim);
  file.add_f32("llama.rope.freq_base", s.rope_base);
  file.add_f32("llama.attention.layer_norm_rms_epsilon", s.norm_eps);
  file.add_u32("llama.vocab_size", s.n_vocab);
}

}  // namespace

mica_dtype storable_type(mica_dtype dtype, int64_t row_elements) {
  if (row_elements % mica_dtype_get(dtype)->block_elems == 0) return dtype;
  const mica_dtype fallback = dtype == MICA_Q4_K   ? MICA_Q5_0
                              : dtype == MICA_Q5_K ? MICA_Q5_1
                              : dtype == MICA_Q6_K ? MICA_Q8_0
                                                   : MICA_F16;
  return storable_type(fallback, row_elements);
}

ModelParts random_parts(std::string_view text) {
  const Chosen chosen = choose(text);
  ModelParts parts;
  parts.architecture = &kLlama;
  parts.hparams = hparams_of(*chosen.shape);
  for (const TensorShape& t : kLlama.tensors(parts.hparams))
    if (is_present(t, *chosen.shape))
      parts.tensors.push_back({t.name, tensor_type(t, *chosen.shape, *chosen.type), t.dim});
  parts.source = std::make_unique<RandomSource>(*chosen.shape, parts.tensors);
  parts.is_random = true;
  parts.type_label = chosen.type->name;
  for (char& c : parts.type_label)
    c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return parts;
}

void write_random_model(std::string_view text, const std::string& path, Progress progress) {
  constexpr uint64_t kPartBytes = 4u << 20;
  const Chosen chosen = choose(text);
  const ModelParts parts = random_parts(text);
  GgufWriter file(path);
  add_keys(file, *chosen.shape, *chosen.type);
  add_vocabulary(file, chosen.shape->n_vocab);
  uint64_t total = 0, done = 0;
  for (const StoredTensor& t : parts.tensors) {
    file.add_tensor(t);
    total += t.bytes();
  }
  file.begin();
  std::vector<char> part;
  for (size_t i = 0; i < parts.tensors.size(); ++i) {
    const StoredTensor& t = parts.tensors[i];
    const uint64_t block = mica_dtype_get(t.dtype)->block_bytes;
    const uint64_t step = kPartBytes / block * block;
    for (uint64_t at = 0; at < t.bytes(); at += step) {
      const uint64_t n = std::min(step, t.bytes() - at);
      part.resize(static_cast<size_t>(n));
      parts.source->read(i, at, n, part.data());
      file.write(part.data(), n);
      progress.report(done += n, total);
    }
  }
  file.finish();
}

}  // namespace mica_llama
