// The program `quantize`: a GGUF file with its matrices in another type.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <thread>

#include "../llama/cli.h"
#include "../llama/gguf_writer.h"
#include "../llama/random_model.h"

namespace mica_llama::cli {
namespace {

// GGUF's general.file_type of files whose matrices are mostly of a type.
constexpr struct {
  mica_dtype dtype;
  uint32_t number;
} kFileTypes[] = {{MICA_F32, 0},   {MICA_F16, 1},   {MICA_Q4_0, 2}, {MICA_Q4_1, 3},
                  {MICA_Q8_0, 7},  {MICA_Q5_0, 8},  {MICA_Q5_1, 9}, {MICA_Q4_K, 14},
                  {MICA_Q5_K, 16}, {MICA_Q6_K, 18}, {MICA_BF16, 32}};

uint32_t file_type_of(mica_dtype dtype) {
  for (const auto& t : kFileTypes)
    if (t.dtype == dtype) return t.number;
  fail(MICA_INVALID_ARGUMENT, "choose one of f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q4_k q5_k q6_k");
}

// Vectors (norms, factors, biases) stay exact; they cost nothing.
mica_dtype target_type(const mica_gguf_tensor& t, mica_dtype wanted) {
  const bool is_matrix = t.rank >= 2 && t.dtype != MICA_I32 && t.dtype != MICA_I64;
  return is_matrix ? storable_type(wanted, t.dim[0]) : t.dtype;
}

// The writer's own keys; the alignment is the default one again.
bool is_rewritten(std::string_view key) {
  return key == "general.file_type" || key == "general.quantization_version" ||
         key == "general.alignment";
}

void copy_keys(const Metadata& file, uint32_t file_type, GgufWriter& out) {
  constexpr size_t kOwnBytes = 256;
  const uint64_t n = mica_gguf_n_keys(file.file());
  size_t total = kOwnBytes, bytes = 0;
  for (uint64_t i = 0; i < n; ++i)
    if (mica_gguf_key_raw(file.file(), i, &bytes) != nullptr) total += bytes;
  out.reserve_keys(total);
  for (uint64_t i = 0; i < n; ++i)
    if (!is_rewritten(mica_gguf_key_at(file.file(), i, nullptr, nullptr, nullptr)))
      out.copy_key(file, i);
  out.add_u32("general.file_type", file_type);
  out.add_u32("general.quantization_version", 2);
}

// A tensor's elements in file order, taken in parts of whole blocks of every type: rows are whole
// blocks, so that where one ends makes no difference.
struct Types {
  const mica_dtype_info* from;
  const mica_dtype_info* to;

  static size_t bytes(const mica_dtype_info* type, size_t n_elements) {
    return n_elements / type->block_elems * type->block_bytes;
  }
};
constexpr size_t kPart = size_t{1} << 22;   // elements that are read and written at once
constexpr size_t kPiece = size_t{1} << 14;  // of a part, what a thread takes at once

// Converts elements [first, first + n) of a part through F32; how many of them are not finite.
// Threads run it: it does not throw.
uint64_t convert(const Types& types, const char* src, char* dst, size_t first, size_t n,
                 float* piece) {
  (void)mica_dtype_decode(types.from->dtype, src + Types::bytes(types.from, first), piece, n);
  if (types.from != types.to)
    (void)mica_dtype_encode(types.to->dtype, piece, dst + Types::bytes(types.to, first), n);
  return static_cast<uint64_t>(
      std::count_if(piece, piece + n, [](float x) { return !std::isfinite(x); }));
}

uint64_t convert_parallel(const Types& types, const char* src, char* dst, size_t n,
                          size_t n_threads) {
  const size_t n_pieces = (n + kPiece - 1) / kPiece;
  n_threads = std::min(n_threads, n_pieces);
  std::vector<float> scratch(n_threads * kPiece);
  std::atomic<size_t> next{0};
  std::atomic<uint64_t> n_not_finite{0};
  const auto work = [&](float* piece) {
    for (size_t i = next++; i < n_pieces; i = next++)
      n_not_finite += convert(types, src, dst, i * kPiece, std::min(kPiece, n - i * kPiece), piece);
  };
  std::vector<std::jthread> threads;  // joined when it goes
  threads.reserve(n_threads);
  try {
    for (size_t i = 1; i < n_threads; ++i) threads.emplace_back(work, scratch.data() + i * kPiece);
  } catch (const std::exception&) {
    // A thread that the system does not give: those that there are do its part.
  }
  work(scratch.data());
  threads.clear();
  return n_not_finite;
}

// Writes the tensor's data in its new type; how many of its values are infinite or NaN.
uint64_t write_tensor(const Metadata& file, const mica_gguf_tensor& t, mica_dtype to,
                      size_t n_threads, GgufWriter& out) {
  const Types types = {mica_dtype_get(t.dtype), mica_dtype_get(to)};
  const bool is_integer = t.dtype == MICA_I32 || t.dtype == MICA_I64;
  const auto n_elements = static_cast<uint64_t>(t.dim[0] * t.dim[1] * t.dim[2] * t.dim[3]);
  uint64_t n_not_finite = 0;
  std::vector<char> src, dst;
  for (uint64_t first = 0; first < n_elements; first += kPart) {
    const auto n = static_cast<size_t>(std::min<uint64_t>(kPart, n_elements - first));
    src.resize(Types::bytes(types.from, n));
    const uint64_t at = first / types.from->block_elems * types.from->block_bytes;
    check(mica_gguf_read(file.file(), &t, at, src.size(), src.data()), file.context());
    const bool is_converted = types.from != types.to;
    if (is_converted) dst.resize(Types::bytes(types.to, n));
    if (!is_integer) n_not_finite += convert_parallel(types, src.data(), dst.data(), n, n_threads);
    const std::vector<char>& result = is_converted ? dst : src;
    out.write(result.data(), result.size());
  }
  return n_not_finite;
}

int run(const std::string& in_path, const std::string& out_path, const std::string& type,
        uint32_t n_threads) {
  static char title[] = "quantizing";
  const mica_dtype wanted = dtype_named(type);
  const uint32_t file_type = file_type_of(wanted);
  watch_interrupt(true);
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.cancel = &cancel_flag;
  mica_context* context = nullptr;
  if (mica_context_create(&params, &context) != MICA_OK) fail(MICA_OUT_OF_MEMORY, "out of memory");
  const Context context_owner(context);
  mica_gguf* gguf = nullptr;
  check(mica_gguf_open(context, in_path.c_str(), MICA_GGUF_READ, &gguf), context);
  const GgufFile gguf_owner(gguf);
  const Metadata file(gguf, context);
  GgufWriter out(out_path);
  copy_keys(file, file_type, out);
  uint64_t total = 0, done = 0, out_bytes = 0;
  for (uint64_t i = 0; const mica_gguf_tensor* t = mica_gguf_tensor_at(gguf, i); ++i) {
    const StoredTensor stored{t->name, target_type(*t, wanted), {t->dim, t->dim + t->rank}};
    out.add_tensor(stored);
    total += t->bytes;
    out_bytes += stored.bytes();
  }
  out.begin();
  const size_t threads = n_threads != 0 ? n_threads : physical_cores();
  for (uint64_t i = 0; const mica_gguf_tensor* t = mica_gguf_tensor_at(gguf, i); ++i) {
    const uint64_t n = write_tensor(file, *t, target_type(*t, wanted), threads, out);
    if (n != 0)
      std::fprintf(stderr, "warning: %llu values of the tensor '%s' are infinite or NaN\n",
                   static_cast<unsigned long long>(n), escaped(t->name).c_str());
    if (show_progress(title, done += t->bytes, total) != 0) fail(MICA_CANCELLED, "cancelled");
  }
  out.finish();
  std::printf("%s: %s -> %s\n", escaped(out_path).c_str(), bytes_text(total).c_str(),
              bytes_text(out_bytes).c_str());
  return 0;
}

}  // namespace
}  // namespace mica_llama::cli

int main(int argc, char** argv) {
  using namespace mica_llama::cli;
  const auto body = [](int n, char** words) {
    std::string in, out, type;
    uint32_t n_threads = 0;
    CommandLine line(
        "Writes a GGUF file with its matrices in another type; vectors stay as they are.");
    line.add_positional("IN", &in, "GGUF file");
    line.add_positional("OUT", &out, "the file to write");
    line.add_positional("TYPE", &type,
                        "f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q4_k q5_k q6_k; where rows are not "
                        "whole blocks of 256: q5_0, q5_1, q8_0 for the last three");
    line.add("-t,--threads", &n_threads, "threads (default: physical cores)");
    return line.parse(n, words, "quantize") ? run(in, out, type, n_threads) : 0;
  };
  return run_program("quantize", body, argc, argv);
}
