// UTF-8: one sequence at a time, and a stream that never cuts a character in two.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mica_llama {

enum class Utf8Kind {
  kValid,       // a whole, well-formed character
  kIncomplete,  // the text ends inside a character that further bytes may complete
  kInvalid,     // bytes that can begin no character
};

struct Utf8Step {
  Utf8Kind kind = Utf8Kind::kInvalid;
  // Bytes it takes, at least 1. Of an ill-formed sequence, the longest prefix that a character
  // could begin with (Unicode 15, section 3.9, "maximal subpart"): each becomes one U+FFFD.
  size_t n_bytes = 1;
};

// Classifies what `text`, not empty, begins with. Overlong forms, surrogates and values above
// U+10FFFF are invalid.
Utf8Step utf8_step(std::string_view text);

// Length in bytes of the run at the start of `text` in which all is valid (`valid` true) or
// nothing is (`valid` false, an incomplete tail included). 0 when `text` begins with the other
// kind.
size_t utf8_run(std::string_view text, bool valid);

// Whether a valid character, at the start of `character`, is a control character: C0, DEL or C1
// (U+0080 to U+009F, which terminals obey as they do ESC and a letter).
bool is_control(std::string_view character);

// Text for a terminal: control characters but newline and tab, and what is not UTF-8, as '?'.
std::string utf8_printable(std::string_view text);

// The start of any bytes, for a message: at most 60 bytes, valid UTF-8, no control characters.
std::string utf8_excerpt(std::string_view bytes);

// The UTF-8 form of a code point below U+110000.
std::string utf8_encode(char32_t code_point);

// Turns pieces of bytes into whole characters: what a piece leaves unfinished waits for the next.
class Utf8Stream {
 public:
  // The text that is whole once `bytes` have come. Invalid sequences come out as U+FFFD.
  std::string push(std::string_view bytes);
  // What was held back, as U+FFFD; the stream is as new afterwards.
  std::string flush();

 private:
  std::string held_;  // an incomplete sequence, at most 3 bytes
};

}  // namespace mica_llama
