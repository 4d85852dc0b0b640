// Architecture, tensors and tokenizer of a GGUF file.
#include "model_file.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <map>

namespace mica_llama {
namespace {

const Architecture& find_architecture(const Metadata& file) {
  const std::optional<std::string> name = file.string("general.architecture");
  if (!name) fail(MICA_BAD_FILE, "the key general.architecture is missing");
  std::string known;
  for (const Architecture* a : kArchitectures) {
    if (*name == a->name) return *a;
    known += (known.empty() ? "" : ", ") + std::string(a->name);
  }
  fail(MICA_UNSUPPORTED,
       "the architecture '" + escaped(*name) + "' is not supported; there is: " + known);
}

std::string shape_text(const std::vector<int64_t>& dim) {
  std::string text = "[";
  for (size_t i = 0; i < dim.size(); ++i) text += (i ? ", " : "") + std::to_string(dim[i]);
  return text + "]";
}

// The vocabulary's size is the embedding's: the ids that the network can look up.
uint32_t vocabulary_size(const Metadata& file, const Architecture& architecture) {
  const mica_gguf_tensor* t = mica_gguf_tensor_find(file.file(), "token_embd.weight");
  if (t == nullptr) fail(MICA_BAD_FILE, "the tensor token_embd.weight is missing");
  if (t->rank != 2 || t->dim[1] > UINT32_MAX)
    fail(MICA_BAD_FILE, "token_embd.weight is not a table");
  const auto n_vocab = static_cast<uint32_t>(t->dim[1]);
  const std::string key = std::string(architecture.name) + ".vocab_size";
  const uint32_t said = file.u32(key).value_or(n_vocab);
  if (said != n_vocab)
    fail(MICA_BAD_FILE, "the key " + key + " is " + std::to_string(said) + ", the embedding has " +
                            std::to_string(n_vocab) + " rows");
  return n_vocab;
}

std::vector<StoredTensor> match_tensors(const Metadata& file, const Architecture& architecture,
                                        const Hparams& hparams) {
  std::vector<StoredTensor> found;
  for (const TensorShape& want : architecture.tensors(hparams)) {
    const mica_gguf_tensor* t = mica_gguf_tensor_find(file.file(), want.name.c_str());
    if (t == nullptr) {
      if (want.required) fail(MICA_BAD_FILE, "the tensor " + want.name + " is missing");
      continue;
    }
    StoredTensor stored{want.name, t->dtype, {t->dim, t->dim + t->rank}};
    if (stored.dim != want.dim)
      fail(MICA_BAD_FILE, "the tensor " + want.name + " has the shape " + shape_text(stored.dim) +
                              ", it must be " + shape_text(want.dim));
    if (t->dtype == MICA_I32 || t->dtype == MICA_I64)
      fail(MICA_BAD_FILE, "the tensor " + want.name + " holds integers of type " +
                              mica_dtype_get(t->dtype)->name +
                              ", weights are numbers with a fraction");
    found.push_back(std::move(stored));
  }
  if (found.size() == mica_gguf_n_tensors(file.file())) return found;
  std::map<std::string, bool> known;
  for (const StoredTensor& t : found) known[t.name] = true;
  for (uint64_t i = 0; const mica_gguf_tensor* t = mica_gguf_tensor_at(file.file(), i); ++i)
    if (known.count(t->name) == 0)
      fail(MICA_UNSUPPORTED, std::string("the tensor '") + escaped(t->name) +
                                 "' is unknown to the architecture " + architecture.name);
  return found;
}

int32_t token_id(const Metadata& file, const char* name) {
  const std::optional<uint32_t> id = file.u32("tokenizer.ggml." + std::string(name));
  if (!id) return -1;
  if (*id > INT32_MAX) fail(MICA_BAD_FILE, std::string(name) + " is out of range");
  return static_cast<int32_t>(*id);
}

void append_strings(const Metadata& file, const std::string& key, TextList& list) {
  constexpr uint64_t kBetweenLooks = 4096;
  const uint64_t n = file.array_size(key);
  for (uint64_t i = 0; i < n; ++i) {
    if (i % kBetweenLooks == 0) file.check_cancelled();
    list.push_back(file.array_string(key, i));
  }
}

// Fails unless the array is absent or has one element a token: nothing is made of another.
uint64_t array_size_a_token(const Metadata& file, const std::string& key, uint64_t n_vocab) {
  const uint64_t n = file.array_size(key);
  if (n != 0 && n != n_vocab)
    fail(MICA_BAD_FILE, "the key " + key + " has " + std::to_string(n) + " entries for " +
                            std::to_string(n_vocab) + " tokens");
  return n;
}

// Calls `get(first, n)` for parts of an array, so that only a part is held as it is converted.
template <class Get>
void in_parts(const Metadata& file, uint64_t n, const Get& get) {
  constexpr uint64_t kPart = 4096;
  for (uint64_t first = 0; first < n; first += kPart) {
    file.check_cancelled();
    const mica_status status = get(first, std::min(kPart, n - first));
    check(status == MICA_INVALID_ARGUMENT ? MICA_BAD_FILE : status, file.context());
  }
}

std::vector<int32_t> token_types(const Metadata& file, uint64_t n_vocab) {
  const std::string key = "tokenizer.ggml.token_type";
  std::vector<int32_t> types(array_size_a_token(file, key, n_vocab));
  std::vector<int64_t> part(4096);
  in_parts(file, types.size(), [&](uint64_t first, uint64_t n) {
    const mica_status status = mica_gguf_array_i64(file.file(), key.c_str(), first, n, part.data());
    for (uint64_t i = 0; status == MICA_OK && i < n; ++i)
      types[first + i] = part[i] >= 0 && part[i] < 100 ? static_cast<int32_t>(part[i]) : 0;
    return status;
  });
  return types;
}

std::vector<float> token_scores(const Metadata& file, uint64_t n_vocab) {
  const std::string key = "tokenizer.ggml.scores";
  std::vector<float> scores(array_size_a_token(file, key, n_vocab));
  in_parts(file, scores.size(), [&](uint64_t first, uint64_t n) {
    return mica_gguf_array_f32(file.file(), key.c_str(), first, n, scores.data() + first);
  });
  return scores;
}

std::unique_ptr<Tokenizer> read_tokenizer(const Metadata& file, uint32_t n_vocab) {
  const std::string prefix = "tokenizer.ggml.";
  Vocab v;
  v.model = file.string(prefix + "model").value_or("no_vocab");
  if (v.model == "no_vocab" || v.model == "none") return nullptr;
  v.pre = file.string(prefix + "pre").value_or("");
  const uint64_t n_tokens = file.array_size(prefix + "tokens");
  if (n_tokens != n_vocab)
    fail(MICA_BAD_FILE, "the tokenizer has " + std::to_string(n_tokens) +
                            " tokens, the embedding has " + std::to_string(n_vocab));
  append_strings(file, prefix + "tokens", v.tokens);
  v.scores = token_scores(file, n_vocab);
  v.types = token_types(file, n_vocab);
  append_strings(file, prefix + "merges", v.merges);
  v.bos = token_id(file, "bos_token_id");
  v.eos = token_id(file, "eos_token_id");
  v.eot = token_id(file, "eot_token_id");
  v.eom = token_id(file, "eom_token_id");
  v.unk = token_id(file, "unknown_token_id");
  v.pad = token_id(file, "padding_token_id");
  v.add_bos = file.boolean(prefix + "add_bos_token");
  v.add_eos = file.boolean(prefix + "add_eos_token");
  v.add_space_prefix = file.boolean(prefix + "add_space_prefix");
  std::string error;
  std::unique_ptr<Tokenizer> tokenizer = Tokenizer::create(std::move(v), error);
  if (tokenizer == nullptr) fail(MICA_BAD_FILE, "tokenizer: " + error);
  return tokenizer;
}

// Names of the numbers of general.file_type that differ from the dominant type's name.
std::string type_label(const Metadata& file) {
  static const std::map<uint32_t, const char*> kNames = {
      {11, "Q3_K_S"}, {12, "Q3_K_M"}, {13, "Q3_K_L"}, {14, "Q4_K_S"},
      {15, "Q4_K_M"}, {16, "Q5_K_S"}, {17, "Q5_K_M"}};
  const auto it = kNames.find(file.u32("general.file_type").value_or(0));
  return it != kNames.end() ? it->second : "";
}

}  // namespace

ModelParts read_parts(const Metadata& file) {
  ModelParts parts;
  parts.architecture = &find_architecture(file);
  parts.hparams = parts.architecture->read(file);
  parts.hparams.n_vocab = vocabulary_size(file, *parts.architecture);
  parts.hparams.validate();
  parts.tensors = match_tensors(file, *parts.architecture, parts.hparams);
  parts.tokenizer = read_tokenizer(file, parts.hparams.n_vocab);
  parts.chat_template = file.string("tokenizer.chat_template").value_or("");
  parts.type_label = type_label(file);
  return parts;
}

std::string size_label(uint64_t n_params) {
  static constexpr struct {
    double unit;
    char letter;
  } kUnits[] = {{1e9, 'B'}, {1e6, 'M'}, {1e3, 'K'}};
  char text[32];
  const auto n = static_cast<double>(n_params);
  for (const auto& u : kUnits) {
    if (n < 0.9995 * u.unit) continue;
    std::snprintf(text, sizeof text, n < 9.95 * u.unit ? "%.1f%c" : "%.0f%c", n / u.unit, u.letter);
    return text;
  }
  return std::to_string(n_params);
}

std::string dominant_type(const std::vector<StoredTensor>& tensors) {
  std::map<mica_dtype, uint64_t> elements;
  for (const StoredTensor& t : tensors)
    if (t.name != "token_embd.weight" && t.name != "output.weight")
      elements[t.dtype] += t.n_elements();
  mica_dtype best = MICA_F32;
  for (const auto& [dtype, n] : elements)
    if (n > elements[best]) best = dtype;
  std::string name = mica_dtype_get(best)->name;
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

}  // namespace mica_llama
