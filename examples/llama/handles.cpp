// Strings and arrays of a GGUF file's metadata.
#include "handles.h"

namespace mica_llama {

std::optional<std::string> Metadata::string(const std::string& key) const {
  const char* data = nullptr;
  size_t size = 0;
  const mica_status status = mica_gguf_get_string(file_, key.c_str(), &data, &size);
  if (status == MICA_NOT_FOUND) return std::nullopt;
  check(bad_file(status), context_);
  return std::string(data, size);
}

uint64_t Metadata::array_size(const std::string& key) const {
  uint64_t n = 0;
  const mica_status status = mica_gguf_array_size(file_, key.c_str(), &n);
  if (status == MICA_NOT_FOUND) return 0;
  check(bad_file(status), context_);
  return n;
}

std::string_view Metadata::array_string(const std::string& key, uint64_t i) const {
  const char* data = nullptr;
  size_t size = 0;
  check(bad_file(mica_gguf_array_string(file_, key.c_str(), i, &data, &size)), context_);
  return {data, size};
}

}  // namespace mica_llama
