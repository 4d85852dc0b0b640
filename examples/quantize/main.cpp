// The program `quantize`: a GGUF file with its matrices in another type.
#include <algorithm>
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

constexpr uint64_t kRowsAtOnce = 1024;  // bounds the memory taken

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

void copy_keys(const Metadata& file, uint32_t file_type, GgufWriter& out) {
  for (uint64_t i = 0; i < mica_gguf_n_keys(file.file()); ++i) {
    const std::string name = mica_gguf_key_at(file.file(), i, nullptr, nullptr, nullptr);
    // The writer's own; the alignment is the default one again.
    if (name == "general.file_type" || name == "general.quantization_version" ||
        name == "general.alignment")
      continue;
    out.copy_key(file, i);
  }
  out.add_u32("general.file_type", file_type);
  out.add_u32("general.quantization_version", 2);
}

struct Rows {
  const mica_dtype_info* from;
  const mica_dtype_info* to;
  size_t n_columns;

  size_t from_bytes() const { return n_columns / from->block_elems * from->block_bytes; }
  size_t to_bytes() const { return n_columns / to->block_elems * to->block_bytes; }
};

// Rows [first, end) of a part, through F32 in `row`. Threads run it: it does not throw.
void convert(const Rows& rows, const char* src, char* dst, size_t first, size_t end, float* row) {
  for (size_t i = first; i < end; ++i) {
    (void)mica_dtype_decode(rows.from->dtype, src + i * rows.from_bytes(), row, rows.n_columns);
    (void)mica_dtype_encode(rows.to->dtype, row, dst + i * rows.to_bytes(), rows.n_columns);
  }
}

void convert_parallel(const Rows& rows, const char* src, char* dst, size_t n_rows,
                      size_t n_threads) {
  std::vector<float> scratch(n_threads * rows.n_columns);
  std::vector<std::jthread> threads;  // joined when it goes
  const size_t share = (n_rows + n_threads - 1) / n_threads;
  for (size_t i = 1; i < n_threads && i * share < n_rows; ++i)
    threads.emplace_back(convert, rows, src, dst, i * share, std::min(n_rows, (i + 1) * share),
                         scratch.data() + i * rows.n_columns);
  convert(rows, src, dst, 0, std::min(n_rows, share), scratch.data());
}

void write_tensor(const Metadata& file, const mica_gguf_tensor& t, mica_dtype to, size_t n_threads,
                  GgufWriter& out) {
  const Rows rows = {mica_dtype_get(t.dtype), mica_dtype_get(to), static_cast<size_t>(t.dim[0])};
  const auto n_rows = static_cast<uint64_t>(t.dim[1] * t.dim[2] * t.dim[3]);
  std::vector<char> src, dst;
  for (uint64_t first = 0; first < n_rows; first += kRowsAtOnce) {
    const auto n = static_cast<size_t>(std::min(kRowsAtOnce, n_rows - first));
    src.resize(n * rows.from_bytes());
    check(mica_gguf_read(file.file(), &t, first * rows.from_bytes(), src.size(), src.data()),
          file.context());
    if (to == t.dtype) {
      out.write(src.data(), src.size());
      continue;
    }
    dst.resize(n * rows.to_bytes());
    convert_parallel(rows, src.data(), dst.data(), n, n_threads);
    out.write(dst.data(), dst.size());
  }
}

int run(const std::string& in_path, const std::string& out_path, const std::string& type,
        uint32_t n_threads) {
  static char title[] = "quantizing";
  const mica_dtype wanted = dtype_named(type);
  const uint32_t file_type = file_type_of(wanted);
  mica_context* context = nullptr;
  if (mica_context_create(nullptr, &context) != MICA_OK) fail(MICA_OUT_OF_MEMORY, "out of memory");
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
    write_tensor(file, *t, target_type(*t, wanted), threads, out);
    (void)show_progress(title, done += t->bytes, total);
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
  return run_program("quantize", [&] {
    std::string in, out, type;
    uint32_t n_threads = 0;
    CLI::App app("Writes a GGUF file with its matrices in another type; vectors stay as they are.");
    app.add_option("IN", in, "GGUF file")->required();
    app.add_option("OUT", out, "the file to write")->required();
    app.add_option("TYPE", type,
                   "f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q4_k q5_k q6_k; where rows are not whole "
                   "blocks of 256: q5_0, q5_1, q8_0 for the last three")
        ->required();
    app.add_option("-t,--threads", n_threads, "threads (default: physical cores)");
    int exit_code = 0;
    if (!parse(app, "quantize", argc, argv, exit_code)) return exit_code;
    return run(in, out, type, n_threads);
  });
}
