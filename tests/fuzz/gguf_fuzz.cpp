// libFuzzer target of the GGUF reader, in both modes. `clang++ -fsanitize=fuzzer,address,undefined`
// with the library's sources makes a fuzzer of it; with replay_main.cpp any compiler replays files.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "gguf_walk.h"
#include "mica/context.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int fd = memfd_create("gguf_fuzz", MFD_CLOEXEC);
  if (fd < 0) return 0;
  if (size == 0 || write(fd, data, size) == static_cast<ssize_t>(size)) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    mica_context* context = nullptr;
    if (mica_context_create(nullptr, &context) == MICA_OK) {
      const mica_status mapped = gguf_walk::walk(context, path.c_str(), MICA_GGUF_MAP);
      const mica_status read = gguf_walk::walk(context, path.c_str(), MICA_GGUF_READ);
      if (mapped != read) __builtin_trap();  // both modes accept the same files
      mica_context_release(context);
    }
  }
  close(fd);
  return 0;
}
