// Formatting of numbers and names for error texts and reports.
#include "core/base/text.h"

namespace mica {

Writer& Writer::put(char c) {
  if (size_ + 1 < capacity_) {
    buffer_[size_] = c;
    buffer_[size_ + 1] = '\0';
  }
  ++size_;
  return *this;
}

Writer& Writer::put(const char* text) {
  for (; *text != '\0'; ++text) put(*text);
  return *this;
}

Writer& Writer::put(Quoted text) {
  constexpr size_t kLongest = 64;
  const char* digits = "0123456789abcdef";
  put('\'');
  for (size_t i = 0; i < text.size && i < kLongest; ++i) {
    const auto c = static_cast<unsigned char>(text.data[i]);
    if (c >= 0x20 && c < 0x7f && c != '\'' && c != '\\') {
      put(static_cast<char>(c));
    } else {
      put('\\').put('x').put(digits[c >> 4]).put(digits[c & 15]);
    }
  }
  if (text.size > kLongest) put("...");
  return put('\'');
}

Writer& Writer::put(uint64_t value) {
  char digits[20];
  int n = 0;
  do {
    digits[n++] = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  while (n > 0) put(digits[--n]);
  return *this;
}

Writer& Writer::put(int64_t value) {
  if (value < 0) {
    put('-');
    return put(~static_cast<uint64_t>(value) + 1);
  }
  return put(static_cast<uint64_t>(value));
}

Writer& Writer::put(double value) {
  if (value != value) return put("nan");
  if (value < 0) {
    put('-');
    value = -value;
  }
  if (value > 1e300) return put("inf");
  int exponent = 0;
  if (value != 0 && (value >= 1e9 || value < 1e-4)) {
    while (value >= 10) value /= 10, ++exponent;
    while (value < 1) value *= 10, --exponent;
  }
  uint64_t scale = 1;
  for (double v = value; v < 1e5 && scale < 10000000000; v *= 10) scale *= 10;
  const auto scaled = static_cast<uint64_t>(value * static_cast<double>(scale) + 0.5);
  put(scaled / scale);
  uint64_t fraction = scaled % scale;
  if (fraction != 0) {
    put('.');
    for (scale /= 10; fraction != 0; scale /= 10) {
      put(static_cast<char>('0' + fraction / scale));
      fraction %= scale;
    }
  }
  return exponent == 0 ? *this : put('e').put(static_cast<int64_t>(exponent));
}

Writer& Writer::put_bytes(uint64_t bytes) {
  const char* const units[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
  uint64_t scale = 1;  // at most 2^60, so that nothing below wraps
  int unit = 0;
  for (; unit < 6 && bytes / scale >= 1024; ++unit) scale *= 1024;
  uint64_t tenths = bytes / scale * 10 + (bytes % scale * 10 + scale / 2) / scale;
  if (tenths >= 10240 && unit < 6) {  // 1023.95 and more: rounded up to the next unit
    tenths = 10;
    ++unit;
  }
  put(tenths / 10);
  if (unit > 0) put('.').put(static_cast<char>('0' + tenths % 10));
  return put(units[unit]);
}

}  // namespace mica
