// UTF-8: classification of sequences (Unicode 15, table 3-7) and the whole-character stream.
#include "utf8.h"

namespace mica_llama {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// What may follow a lead byte: its length, and the narrower range of the second byte.
struct Lead {
  size_t n_bytes;
  unsigned char second_min, second_max;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};  // a continuation byte, or an overlong form
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};  // no surrogates
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};  // up to U+10FFFF
  return {0, 0, 0};
}

}  // namespace

Utf8Step utf8_step(std::string_view text) {
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  if (lead.n_bytes == 0) return {Utf8Kind::kInvalid, 1};
  for (size_t i = 1; i < lead.n_bytes; ++i) {
    if (i == text.size()) return {Utf8Kind::kIncomplete, i};
    const unsigned char byte = static_cast<unsigned char>(text[i]);
    const unsigned char min = i == 1 ? lead.second_min : 0x80;
    const unsigned char max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {Utf8Kind::kInvalid, i};
  }
  return {Utf8Kind::kValid, lead.n_bytes};
}

size_t utf8_run(std::string_view text, bool valid) {
  size_t n_bytes = 0;
  while (n_bytes < text.size()) {
    const Utf8Step step = utf8_step(text.substr(n_bytes));
    if ((step.kind == Utf8Kind::kValid) != valid) break;
    n_bytes += step.n_bytes;
  }
  return n_bytes;
}

bool is_control(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (first == 0xC2 && character.size() > 1)
    return static_cast<unsigned char>(character[1]) < 0xA0;  // C1: U+0080 to U+009F
  return first < 0x20 || first == 0x7F;
}

std::string utf8_printable(std::string_view text) {
  std::string printable;
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    const bool shown =
        text[0] == '\n' || text[0] == '\t' || (step.kind == Utf8Kind::kValid && !is_control(text));
    printable.append(shown ? text.substr(0, step.n_bytes) : "?");
    text.remove_prefix(step.n_bytes);
  }
  return printable;
}

std::string utf8_excerpt(std::string_view bytes) {
  constexpr std::string_view kMore = "...";
  constexpr size_t kMaxBytes = 60;
  std::string text;
  while (!bytes.empty()) {
    const Utf8Step step = utf8_step(bytes);
    const bool shown = step.kind == Utf8Kind::kValid && !is_control(bytes);
    const std::string_view next = shown ? bytes.substr(0, step.n_bytes) : "?";
    if (text.size() + next.size() + kMore.size() > kMaxBytes) return text.append(kMore);
    text.append(next);
    bytes.remove_prefix(step.n_bytes);
  }
  return text;
}

std::string utf8_encode(char32_t code_point) {
  const auto byte = [](char32_t bits) {
    return static_cast<char>(static_cast<unsigned char>(bits));
  };
  const auto tail = [&](int shift) { return byte(0x80 | ((code_point >> shift) & 0x3F)); };
  if (code_point < 0x80) return {byte(code_point)};
  if (code_point < 0x800) return {byte(0xC0 | (code_point >> 6)), tail(0)};
  if (code_point < 0x10000) return {byte(0xE0 | (code_point >> 12)), tail(6), tail(0)};
  return {byte(0xF0 | (code_point >> 18)), tail(12), tail(6), tail(0)};
}

std::string Utf8Stream::push(std::string_view bytes) {
  held_.append(bytes);
  std::string whole;
  size_t done = 0;
  while (done < held_.size()) {
    const std::string_view rest = std::string_view(held_).substr(done);
    const Utf8Step step = utf8_step(rest);
    if (step.kind == Utf8Kind::kIncomplete) break;
    whole.append(step.kind == Utf8Kind::kValid ? rest.substr(0, step.n_bytes) : kReplacement);
    done += step.n_bytes;
  }
  held_.erase(0, done);
  return whole;
}

std::string Utf8Stream::flush() {
  const bool cut = !held_.empty();  // one maximal subpart, so one replacement
  held_.clear();
  return std::string(cut ? kReplacement : std::string_view());
}

}  // namespace mica_llama
