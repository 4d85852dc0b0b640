// What the example programs share: flags, errors, files, the progress bar.
#pragma once
#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "command_line.h"
#include "failure.h"
#include "files.h"
#include "handles.h"
#include "mica_llama.h"

namespace mica_llama::cli {

using ModelHandle = Handle<mica_llama_model, mica_llama_model_release>;
using SessionHandle = Handle<mica_llama_session, mica_llama_session_release>;

struct Options {
  std::string model;
  std::string backend = "cpu";
  uint32_t n_threads = 0;
  uint32_t n_ctx = 0;
  uint32_t n_batch = 0;
  std::string type_k = "f16", type_v = "f16", keys = "relative";
  float yarn_factor = 0;  // no flag: of programs that set it
  bool map_file = false;
};
// -m --mmap -b -t --backend --list-devices --ctk --ctv --kv
void add_options(CommandLine& line, Options& options);

// Passes a failure of mica-llama on.
void check_llama(mica_status status);

// Runs a program's body: prints what it throws as one line "name: text" and returns 1. A write that
// passes the limit of a file's size is an error like any other, no signal.
int run_program(const char* name, int (*body)(int argc, char** argv), int argc, char** argv);

// The signal that asked the program to end (SIGINT, SIGTERM, SIGHUP), once watch_interrupt() was
// called; 0: none did. `cancel_flag` is then set too. A second signal ends the program at once,
// unless it `finishes_first`: one that has a file to remove.
extern volatile std::sig_atomic_t interrupted;
extern volatile int32_t cancel_flag;
void watch_interrupt(bool finishes_first = false);

// A bar on stderr, when that is a terminal; mica's progress callbacks. Not 0 once interrupted.
int show_progress(void* title, uint64_t done, uint64_t total);

mica_llama_model_params model_params(const Options& options);
mica_llama_session_params session_params(const Options& options);
mica_dtype dtype_named(const std::string& name);

// The file of -m, or the shape when it is not empty. Tells what --backend auto chose.
ModelHandle open_model(const Options& options, const std::string& shape = "");
SessionHandle create_session(mica_llama_model* model, const mica_llama_session_params& params);
mica_llama_model_info info_of(const mica_llama_model* model);

std::vector<int32_t> tokenize(const mica_llama_model* model, std::string_view text, uint32_t flags);
// A regular file's text, or what comes through a pipe; one that nobody writes to is empty.
std::string read_file(const std::string& path);
// Creates a file, or writes to what is there; a FIFO without a reader is an error.
File create_file(const std::string& path);

// Appends `tokens` to sequence 0; `outputs` as in mica_llama_batch.
mica_status decode(mica_llama_session* session, const int32_t* tokens, size_t n,
                   const uint8_t* outputs = nullptr);

// Fails with BAD_FILE and a sentence when a logit is infinite or not a number.
void require_finite(const float* logits, uint32_t n_vocab);

double seconds_since(std::chrono::steady_clock::time_point start);
// Processor cores of this machine, hyper-threads counted once: what a backend takes by default.
uint32_t physical_cores();

}  // namespace mica_llama::cli
