// Owners of mica's handles, and a typed view of a GGUF file's keys.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "failure.h"
#include "mica/device.h"
#include "mica/gguf.h"
#include "mica/graph.h"
#include "mica/kv_cache.h"
#include "mica/session.h"
#include "mica/weights.h"

namespace mica_llama {

template <auto Release>
struct Releaser {
  template <class T>
  void operator()(T* handle) const {
    Release(handle);
  }
};
template <class T, auto Release>
using Handle = std::unique_ptr<T, Releaser<Release>>;

using Context = Handle<mica_context, mica_context_release>;
using Device = Handle<mica_device, mica_device_release>;
using GgufFile = Handle<mica_gguf, mica_gguf_release>;
using Weights = Handle<mica_weights, mica_weights_release>;
using Graph = Handle<mica_graph, mica_graph_release>;
using KvCache = Handle<mica_kv_cache, mica_kv_cache_release>;
using CoreSession = Handle<mica_session, mica_session_release>;

// A file's metadata. A key that is absent gives nullopt; one of another type is an error.
class Metadata {
 public:
  Metadata(mica_gguf* file, mica_context* context, const volatile int32_t* cancel = nullptr)
      : file_(file), context_(context), cancel_(cancel) {}

  std::optional<uint32_t> u32(const std::string& key) const {
    return get<uint32_t>(key, mica_gguf_get_u32);
  }
  std::optional<int64_t> i64(const std::string& key) const {
    return get<int64_t>(key, mica_gguf_get_i64);
  }
  std::optional<float> f32(const std::string& key) const {
    return get<float>(key, mica_gguf_get_f32);
  }
  std::optional<bool> boolean(const std::string& key) const {
    const std::optional<int> value = get<int>(key, mica_gguf_get_bool);
    return value ? std::optional<bool>(*value != 0) : std::nullopt;
  }
  std::optional<std::string> string(const std::string& key) const;
  bool has(const std::string& key) const { return mica_gguf_has(file_, key.c_str()) != 0; }
  // Elements of an array; 0 when the key is absent.
  uint64_t array_size(const std::string& key) const;
  // Lives as long as the file. Fast when the indices of a key rise.
  std::string_view array_string(const std::string& key, uint64_t i) const;

  // Fails with CANCELLED when the context's caller wants it: for loops over what a file holds.
  void check_cancelled() const {
    if (cancel_ != nullptr && *cancel_ != 0) fail(MICA_CANCELLED, "cancelled");
  }

  mica_gguf* file() const { return file_; }
  mica_context* context() const { return context_; }

 private:
  template <class T, class Getter>
  std::optional<T> get(const std::string& key, Getter getter) const {
    T value{};
    const mica_status status = getter(file_, key.c_str(), &value);
    if (status == MICA_NOT_FOUND) return std::nullopt;
    check(bad_file(status), context_);
    return value;
  }
  // A wrong type in a file is the file's fault, not the caller's.
  static mica_status bad_file(mica_status status) {
    return status == MICA_INVALID_ARGUMENT ? MICA_BAD_FILE : status;
  }

  mica_gguf* file_;
  mica_context* context_;
  const volatile int32_t* cancel_;
};

}  // namespace mica_llama
