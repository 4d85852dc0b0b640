// Numbers and texts as JSON writes them.
#include "json.h"

#include <cmath>
#include <cstdio>

#include "../llama/tokenizer/utf8.h"

namespace mica_llama::cli {

std::string json_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);
  return std::isfinite(value) ? text : "null";
}

std::string json_text(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    char code[8];
    if (step.kind != Utf8Kind::kValid) {
      out += "\\ufffd";
    } else if (static_cast<unsigned char>(text[0]) < 0x20) {
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(text[0]));
      out += code;
    } else {
      if (text[0] == '"' || text[0] == '\\') out += '\\';
      out += text.substr(0, step.n_bytes);
    }
    text.remove_prefix(step.n_bytes);
  }
  return out + "\"";
}

}  // namespace mica_llama::cli
