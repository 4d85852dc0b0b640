// The error text of each thread, and text made fit for a terminal.
#include "failure.h"

#include <cstdio>
#include <cstring>

#include "tokenizer/utf8.h"

namespace mica_llama {
namespace {
thread_local char error_text[1024];
}  // namespace

void set_error(const char* text) noexcept {
  std::strncpy(error_text, text, sizeof error_text - 1);
  error_text[sizeof error_text - 1] = '\0';
}
const char* last_error() noexcept { return error_text; }

std::string escaped(std::string_view text, size_t limit) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  while (!text.empty() && out.size() < limit) {
    const Utf8Step step = utf8_step(text);
    if (step.kind == Utf8Kind::kValid && !is_control(text)) {
      out.append(text.substr(0, step.n_bytes));
    } else {
      for (const char c : text.substr(0, step.n_bytes)) {
        const auto byte = static_cast<unsigned char>(c);
        out.append("\\x").append(1, kHex[byte >> 4]).append(1, kHex[byte & 15]);
      }
    }
    text.remove_prefix(step.n_bytes);
  }
  if (!text.empty()) out.append("...");
  return out;
}

std::string bytes_text(uint64_t bytes) {
  char text[32];
  const double mib = static_cast<double>(bytes) / (1 << 20);
  if (mib < 1024) {
    std::snprintf(text, sizeof text, "%.0f MiB", mib);
  } else {
    std::snprintf(text, sizeof text, "%.2f GiB", mib / 1024);
  }
  return text;
}

}  // namespace mica_llama
