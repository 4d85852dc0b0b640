// Text without the C library's formatting: a bounded writer, an owned string, and error texts.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/base/vec.h"
#include "mica/status.h"

namespace mica {

// Bytes from a file or a caller: printed with control characters, quotes and non-ASCII escaped,
// and cut after 64 bytes, so that a hostile name cannot drive a terminal.
struct Quoted {
  const char* data;
  size_t size;
};
inline Quoted quoted(const char* s) { return {s, std::strlen(s)}; }
// A byte count, printed with its unit: "1.5 MiB".
struct Bytes {
  uint64_t n;
};

// Appends to a caller's buffer; always NUL-terminated; what does not fit is cut, and `size()`
// still counts it (as snprintf does), so that a caller can ask for the length first.
class Writer {
 public:
  Writer(char* buffer, size_t capacity) : buffer_(buffer), capacity_(capacity) {
    if (capacity_ > 0) buffer_[0] = '\0';
  }
  Writer& put(char c);
  Writer& put(const char* text);
  Writer& put(Quoted text);
  Writer& put(int64_t value);
  Writer& put(uint64_t value);
  Writer& put(int32_t value) { return put(static_cast<int64_t>(value)); }
  Writer& put(uint32_t value) { return put(static_cast<uint64_t>(value)); }
  Writer& put(double value);  // up to 6 significant digits
  Writer& put_bytes(uint64_t bytes);
  Writer& put(Bytes bytes) { return put_bytes(bytes.n); }
  template <class A, class B, class... Rest>
  Writer& put(A a, B b, Rest... rest) {
    put(a);
    return put(b, rest...);
  }
  size_t size() const { return size_; }

 private:
  char* buffer_;
  size_t capacity_;
  size_t size_ = 0;
};

// A status with its sentence. Fixed size, so that running out of memory can be reported too.
class Error {
 public:
  // Records and returns `code`; the parts are joined. `return error.fail(MICA_IO, "…", n, "…");`
  template <class... Parts>
  mica_status fail(mica_status code, Parts... parts) {
    code_ = code;
    Writer(text_, sizeof text_).put("", parts...);
    return code;
  }
  template <class... Parts>
  mica_status invalid(Parts... parts) {
    return fail(MICA_INVALID_ARGUMENT, parts...);
  }
  mica_status out_of_memory(const char* what) {
    return fail(MICA_OUT_OF_MEMORY, "out of memory: ", what);
  }
  mica_status null(const char* what) { return invalid(what, " is NULL"); }
  // Puts the parts before the text: names the culprit on the way up. Returns the code.
  template <class... Parts>
  mica_status prefix(Parts... parts) {
    const Error old = *this;
    return fail(code_, parts..., ": ", old.text());
  }
  void clear() {
    code_ = MICA_OK;
    text_[0] = '\0';
  }
  mica_status code() const { return code_; }
  const char* text() const { return text_; }

 private:
  mica_status code_ = MICA_OK;
  char text_[480] = {};
};

// An owned, NUL-terminated string of known length; may hold NUL bytes.
class Text {
 public:
  explicit Text(const mica_allocator& a) : bytes_(a) {}
  [[nodiscard]] bool assign(const char* data, size_t size) {
    bytes_.clear();
    return bytes_.reserve(size + 1) && bytes_.append(data, size) && bytes_.push('\0');
  }
  [[nodiscard]] bool assign(const char* text) { return assign(text, std::strlen(text)); }
  const char* c_str() const { return bytes_.empty() ? "" : bytes_.data(); }
  size_t size() const { return bytes_.empty() ? 0 : bytes_.size() - 1; }

 private:
  Vec<char> bytes_;
};

}  // namespace mica

// Returns the status of `expression` from the enclosing function unless it is MICA_OK.
#define MICA_TRY(expression)                                  \
  do {                                                        \
    const mica_status mica_try_status_ = (expression);        \
    if (mica_try_status_ != MICA_OK) return mica_try_status_; \
  } while (0)
