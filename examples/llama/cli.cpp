// Flags, errors, files and the progress bar of the example programs.
#include "cli.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <thread>

#include "devices.h"

namespace mica_llama::cli {

volatile std::sig_atomic_t interrupted = 0;
volatile int32_t cancel_flag = 0;

namespace {

bool finishes = false;

void on_interrupt(int signal) {
  interrupted = signal;
  cancel_flag = 1;
  if (!finishes) std::signal(signal, SIG_DFL);
}

void log_line(void*, mica_log_level level, const char* text) {
  if (level == MICA_LOG_WARNING) std::fprintf(stderr, "warning: %s\n", text);
}

void print_devices() {
  for (const DeviceLine& d : list_devices()) {
    const std::string text = escaped(d.description, 400);
    if (!d.is_there) {
      std::printf("%-10s not available: %s\n", d.name.c_str(), text.c_str());
      continue;
    }
    std::string memory;
    if (d.memory_bytes != 0) memory = ", " + bytes_text(d.memory_bytes);
    if (d.free_bytes != 0) memory += " (" + bytes_text(d.free_bytes) + " free)";
    std::printf("%-10s %s%s\n", d.name.c_str(), text.c_str(), memory.c_str());
  }
}

}  // namespace

void add_options(CommandLine& line, Options& o) {
  line.add("-m,--model", &o.model, "GGUF file");
  line.add("--mmap", &o.map_file,
           "map the file instead of reading it: it must not become shorter while it loads");
  line.add("-b,--batch-size", &o.n_batch, "tokens of one step (default 512)");
  line.add("-t,--threads", &o.n_threads, "threads (default: physical cores)");
  line.add("--backend", &o.backend,
           "auto, cpu, cuda, vulkan, ref, or with an option: cpu:avx2, cuda:1, vulkan:NVIDIA",
           true);
  line.add("--list-devices", &print_devices, "print what --backend takes here");
  line.add("--ctk", &o.type_k, "type of K in the cache: f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0",
           true);
  line.add("--ctv", &o.type_v, "type of V in the cache", true);
  line.add_choice("--kv", &o.keys, "relative rotated unrotated");
}

void check_llama(mica_status status) {
  if (status == MICA_OK) return;
  const char* text = mica_llama_error();
  fail(status, text[0] != '\0' ? text : mica_status_text(status));
}

namespace {

// Vulkan's compiled pipelines are kept for the next run, unless the user says where, or, with an
// empty MICA_VULKAN_CACHE, not at all. The library by itself keeps nothing.
void keep_pipelines() {
  const char* base = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::string folder = base != nullptr && base[0] == '/' ? base : "";
  if (folder.empty() && home != nullptr && home[0] == '/') folder = std::string(home) + "/.cache";
  if (!folder.empty()) setenv("MICA_VULKAN_CACHE", (folder + "/mica").c_str(), 0);
}

}  // namespace

int run_program(const char* name, int (*body)(int argc, char** argv), int argc, char** argv) {
  int exit_code = 1;
  std::signal(SIGXFSZ, SIG_IGN);
  const mica_status status = guarded([&] {
    keep_pipelines();
    exit_code = body(argc, argv);
  });
  if (status == MICA_OK) return exit_code;
  std::fflush(stdout);
  std::fprintf(stderr, "%s: %s\n", name, last_error());
  return status == MICA_CANCELLED && interrupted != 0 ? 128 + interrupted : 1;
}

void watch_interrupt(bool finishes_first) {
  finishes = finishes_first;
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
  if (std::signal(SIGHUP, on_interrupt) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);  // nohup's
}

int show_progress(void* title, uint64_t done, uint64_t total) {
  constexpr int kWidth = 40;
  static const bool is_terminal = isatty(STDERR_FILENO) != 0;
  static int shown = -1;
  if (interrupted != 0) return 1;
  if (!is_terminal || total == 0) return 0;
  const int filled =
      static_cast<int>(static_cast<double>(done) / static_cast<double>(total) * kWidth);
  if (filled == shown) return 0;
  shown = filled;
  if (done == total) {  // the bar makes room for what comes
    std::fprintf(stderr, "\r%*s\r", kWidth + 40, "");
  } else {
    const std::string bar = std::string(static_cast<size_t>(filled), '#') +
                            std::string(static_cast<size_t>(kWidth - filled), '.');
    std::fprintf(stderr, "\r%s [%s] %3d %%", static_cast<const char*>(title), bar.c_str(),
                 filled * 100 / kWidth);
  }
  return 0;
}

mica_dtype dtype_named(const std::string& name) {
  const mica_dtype_info* d = mica_dtype_find(name.c_str());
  if (d == nullptr) fail(MICA_INVALID_ARGUMENT, "there is no type '" + escaped(name) + "'");
  return d->dtype;
}

mica_llama_model_params model_params(const Options& o) {
  static char title[] = "loading";
  static constexpr mica_logger kLogger = {nullptr, log_line};
  mica_llama_model_params p = MICA_LLAMA_MODEL_PARAMS_INIT;
  p.device = o.backend.c_str();
  p.n_threads = o.n_threads;
  p.logger = &kLogger;
  p.cancel = &cancel_flag;
  p.progress = show_progress;
  p.progress_user = title;
  p.map_file = o.map_file ? 1 : 0;
  p.yarn_factor = o.yarn_factor;
  return p;
}

mica_llama_session_params session_params(const Options& o) {
  mica_llama_session_params p = MICA_LLAMA_SESSION_PARAMS_INIT;
  p.n_ctx = o.n_ctx;
  p.n_batch = o.n_batch;
  p.dtype_k = dtype_named(o.type_k);
  p.dtype_v = dtype_named(o.type_v);
  p.keys = o.keys == "rotated"     ? MICA_KV_KEYS_ROTATED
           : o.keys == "unrotated" ? MICA_KV_KEYS_UNROTATED
                                   : MICA_KV_KEYS_RELATIVE;
  return p;
}

ModelHandle open_model(const Options& o, const std::string& shape) {
  if (o.model.empty() && shape.empty()) fail(MICA_INVALID_ARGUMENT, "give a model with -m FILE");
  const mica_llama_model_params params = model_params(o);
  mica_llama_model* raw = nullptr;
  check_llama(shape.empty() ? mica_llama_model_open(o.model.c_str(), &params, &raw)
                            : mica_llama_shape_open(shape.c_str(), &params, &raw));
  ModelHandle model(raw);
  if (o.backend == "auto") std::fprintf(stderr, "--backend auto took %s\n", info_of(raw).device);
  return model;
}

SessionHandle create_session(mica_llama_model* model, const mica_llama_session_params& params) {
  mica_llama_session* session = nullptr;
  check_llama(mica_llama_session_create(model, &params, &session));
  return SessionHandle(session);
}

mica_llama_model_info info_of(const mica_llama_model* model) {
  mica_llama_model_info info{};
  check_llama(mica_llama_model_get_info(model, &info));
  return info;
}

std::vector<int32_t> tokenize(const mica_llama_model* model, std::string_view text,
                              uint32_t flags) {
  std::vector<int32_t> ids(text.size() + 2);  // a token is a byte at least, bos and eos beside
  size_t n = 0;
  check_llama(
      mica_llama_tokenize(model, text.data(), text.size(), flags, ids.data(), ids.size(), &n));
  if (n > ids.size()) {
    ids.resize(n);
    check_llama(mica_llama_tokenize(model, text.data(), text.size(), flags, ids.data(), n, &n));
  }
  ids.resize(n);
  return ids;
}

std::string read_file(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) fail(MICA_NOT_FOUND, "cannot open " + quoted(path) + ": " + std::strerror(errno));
  const File file(fdopen(fd, "rb"));
  struct stat info {};
  if (file == nullptr || fstat(fd, &info) != 0) fail(MICA_IO, "cannot read " + quoted(path));
  if (S_ISDIR(info.st_mode)) fail(MICA_IO, quoted(path) + " is a directory");
  if (!S_ISREG(info.st_mode) && !S_ISFIFO(info.st_mode))
    fail(MICA_IO, quoted(path) + " is neither a regular file nor a pipe");
  std::string text;
  char part[1 << 14];
  while (interrupted == 0) {
    const ssize_t n = read(fd, part, sizeof part);
    if (n == 0) return text;
    if (n > 0) {
      text.append(part, static_cast<size_t>(n));
    } else if (errno == EAGAIN) {  // a pipe that has a writer
      pollfd wanted = {fd, POLLIN, 0};
      (void)poll(&wanted, 1, 100);
    } else if (errno != EINTR) {
      fail(MICA_IO, "reading " + quoted(path) + " failed: " + std::strerror(errno));
    }
  }
  fail(MICA_CANCELLED, "cancelled");
}

File create_file(const std::string& path) {
  const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  const int fd = open(path.c_str(), flags, 0666);
  if (fd < 0) fail(MICA_IO, "cannot create " + quoted(path) + ": " + std::strerror(errno));
  (void)fcntl(fd, F_SETFL, 0);  // only opening must not wait for a FIFO's reader
  File file(fdopen(fd, "wb"));
  if (file == nullptr) fail(MICA_IO, "cannot create " + quoted(path));
  return file;
}

mica_status decode(mica_llama_session* session, const int32_t* tokens, size_t n,
                   const uint8_t* outputs) {
  const mica_llama_span span = {0, static_cast<uint32_t>(n)};
  const mica_llama_batch batch = {sizeof batch, 1, &span, tokens, outputs};
  return mica_llama_decode(session, &batch);
}

void require_finite(const float* logits, uint32_t n_vocab) {
  for (uint32_t i = 0; i < n_vocab; ++i)
    if (!std::isfinite(logits[i]))
      fail(MICA_BAD_FILE, "the logit of token " + std::to_string(i) +
                              " is not a finite number: the model's weights are damaged, or too "
                              "large for the types it runs in");
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

uint32_t physical_cores() {
  std::set<std::string> cores;
  const unsigned n = std::max(1u, std::thread::hardware_concurrency());
  for (unsigned i = 0; i < n; ++i) {
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(i) +
                       "/topology/thread_siblings_list");
    std::string siblings;
    if (std::getline(file, siblings)) cores.insert(siblings);
  }
  return cores.empty() ? n : static_cast<uint32_t>(cores.size());
}

}  // namespace mica_llama::cli
