// Errors inside mica-llama: an exception with a status, turned into a status at the C boundary.
#pragma once
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "mica/context.h"

namespace mica_llama {

struct Failure {
  mica_status status;
  std::string text;
};

[[noreturn]] inline void fail(mica_status status, std::string text) {
  throw Failure{status, std::move(text)};
}
// Passes an error of the core on, with the context's sentence.
inline void check(mica_status status, const mica_context* context) {
  if (status == MICA_OK) return;
  const char* text = mica_context_error(context);
  fail(status, text[0] != '\0' ? text : mica_status_text(status));
}

// Text from a file, fit for a terminal: control characters and what is not UTF-8 as \xHH, at most
// `limit` bytes of it.
std::string escaped(std::string_view text, size_t limit = 80);

// "94 MiB", "3.25 GiB"
std::string bytes_text(uint64_t bytes);

// Sets this thread's error text; never throws.
void set_error(const char* text) noexcept;
const char* last_error() noexcept;

// Runs `body` and turns what it throws into a status and the thread's error text.
template <class Body>
mica_status guarded(Body body) noexcept {
  try {
    body();
    return MICA_OK;
  } catch (const Failure& failure) {
    set_error(failure.text.c_str());
    return failure.status;
  } catch (const std::bad_alloc&) {
    set_error("out of host memory");
    return MICA_OUT_OF_MEMORY;
  } catch (const std::exception& e) {
    set_error(e.what());
    return MICA_INTERNAL;
  } catch (...) {
    set_error("an unknown exception");
    return MICA_INTERNAL;
  }
}

}  // namespace mica_llama
