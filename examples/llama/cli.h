// What the example programs share: flags, errors, files, the progress bar.
#pragma once
#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "failure.h"
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
  std::string type_k = "f16", type_v = "f16";
};
// -m -b -t --backend --list-devices --ctk --ctv
void add_options(CLI::App& app, Options& options);

// Passes a failure of mica-llama on.
void check_llama(mica_status status);

// Runs a program's body: prints what it throws as one line "name: text" and returns 1.
int run_program(const char* name, const std::function<int()>& body);
// Parses; false when the program is to end with `exit_code` (--help, or a wrong flag, one line).
bool parse(CLI::App& app, const char* name, int argc, char** argv, int& exit_code);

// Set by Ctrl-C once watch_interrupt() was called; the second Ctrl-C ends the program.
extern volatile std::sig_atomic_t interrupted;
extern volatile int32_t cancel_flag;
void watch_interrupt();

// A bar on stderr, when that is a terminal; mica's progress callbacks.
int show_progress(void* title, uint64_t done, uint64_t total);

mica_llama_model_params model_params(const Options& options);
mica_llama_session_params session_params(const Options& options);
mica_dtype dtype_named(const std::string& name);

// The file of -m, or the shape when it is not empty. Tells what --backend auto chose.
ModelHandle open_model(const Options& options, const std::string& shape = "");
SessionHandle create_session(mica_llama_model* model, const mica_llama_session_params& params);
mica_llama_model_info info_of(const mica_llama_model* model);

std::vector<int32_t> tokenize(const mica_llama_model* model, std::string_view text, uint32_t flags);
std::string read_file(const std::string& path);

// Appends `tokens` to sequence 0; `outputs` as in mica_llama_batch.
mica_status decode(mica_llama_session* session, const int32_t* tokens, size_t n,
                   const uint8_t* outputs = nullptr);

double seconds_since(std::chrono::steady_clock::time_point start);
// Processor cores of this machine, hyper-threads counted once: what a backend takes by default.
uint32_t physical_cores();

}  // namespace mica_llama::cli
