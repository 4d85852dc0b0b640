// What tests of the core build on: owners of the C API's objects, and short ways to fill and read.
#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "mica/mica.h"

namespace mica::test {

template <auto kRelease>
struct Release {
  template <class T>
  void operator()(T* p) const {
    kRelease(p);
  }
};
using Context = std::unique_ptr<mica_context, Release<mica_context_release>>;
using Device = std::unique_ptr<mica_device, Release<mica_device_release>>;
using Weights = std::unique_ptr<mica_weights, Release<mica_weights_release>>;
using Graph = std::unique_ptr<mica_graph, Release<mica_graph_release>>;
using Cache = std::unique_ptr<mica_kv_cache, Release<mica_kv_cache_release>>;
using Session = std::unique_ptr<mica_session, Release<mica_session_release>>;

using Dims = std::vector<int64_t>;

// A context that knows ref and cpu.
inline Context make_context(const mica_context_params* params = nullptr) {
  mica_context* c = nullptr;
  EXPECT_EQ(mica_context_create(params, &c), MICA_OK);
  EXPECT_EQ(mica_context_add_backend(c, mica_backend_ref()), MICA_OK);
  EXPECT_EQ(mica_context_add_backend(c, mica_backend_cpu()), MICA_OK);
  return Context(c);
}
// nullptr where this machine has no such instruction set.
inline Device open_device(const Context& context, const char* name) {
  mica_device* d = nullptr;
  const mica_status status = mica_device_open(context.get(), name, &d);
  EXPECT_TRUE(status == MICA_OK || status == MICA_NO_DEVICE) << mica_context_error(context.get());
  return Device(d);
}
inline Graph make_graph(const Context& context) {
  mica_graph* g = nullptr;
  EXPECT_EQ(mica_graph_create(context.get(), &g), MICA_OK);
  return Graph(g);
}
inline Session make_session(const Device& device, mica_kv_cache* cache = nullptr,
                            bool unfused = false, const std::vector<mica_device*>& fallback = {}) {
  mica_session_params params = MICA_SESSION_PARAMS_INIT;
  params.cache = cache;
  params.unfused = unfused ? 1 : 0;
  params.fallback = fallback.data();
  params.n_fallback = static_cast<uint32_t>(fallback.size());
  mica_session* s = nullptr;
  EXPECT_EQ(mica_session_create(device.get(), &params, &s), MICA_OK);
  return Session(s);
}

inline std::string graph_error(const Graph& g) {
  const char* text = nullptr;
  mica_graph_status(g.get(), &text);
  return text;
}
inline mica_tensor input(mica_graph* g, const char* name, const Dims& dim, mica_extent extent = {},
                         mica_dtype dtype = MICA_F32) {
  return mica_input(g, name, dtype, static_cast<uint32_t>(dim.size()), dim.data(), extent);
}
inline mica_tensor reshape(mica_graph* g, mica_tensor x, const Dims& dim) {
  return mica_reshape(g, x, static_cast<uint32_t>(dim.size()), dim.data());
}
inline bool is_none(mica_tensor t) { return t.index == 0; }

inline std::vector<float> randoms(size_t n, uint64_t seed, float sigma = 1) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> gauss(0, sigma);
  std::vector<float> v(n);
  for (float& x : v) x = gauss(rng);
  return v;
}
template <class T>
void set(const Session& s, const char* name, const std::vector<T>& v, uint64_t offset = 0) {
  ASSERT_EQ(mica_session_set(s.get(), name, offset, v.data(), v.size() * sizeof(T)), MICA_OK)
      << name;
}
template <class T = float>
std::vector<T> read(mica_plan* plan, const char* output, size_t n) {
  std::vector<T> v(n);
  EXPECT_EQ(mica_plan_read(plan, output, 0, v.data(), n * sizeof(T)), MICA_OK) << output;
  return v;
}
template <class T = float>
std::vector<T> get(const Session& s, const char* name, size_t n) {
  std::vector<T> v(n);
  EXPECT_EQ(mica_session_get(s.get(), name, 0, v.data(), n * sizeof(T)), MICA_OK) << name;
  return v;
}
inline std::string explain(const mica_plan* plan) {
  size_t size = 0;
  EXPECT_EQ(mica_plan_explain(plan, nullptr, 0, &size), MICA_OK);
  std::string text(size + 1, '\0');
  EXPECT_EQ(mica_plan_explain(plan, text.data(), text.size(), &size), MICA_OK);
  text.resize(size);
  return text;
}
inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
// Compiles and allocates; nullptr (and a failure) when that does not work.
inline mica_plan* ready(const Context& context, const Session& session, const Graph& graph) {
  mica_graph* const graphs[] = {graph.get()};
  mica_plan* plan = nullptr;
  EXPECT_EQ(mica_graph_status(graph.get(), nullptr), MICA_OK) << graph_error(graph);
  EXPECT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_OK)
      << mica_context_error(context.get());
  EXPECT_EQ(mica_session_allocate(session.get()), MICA_OK) << mica_context_error(context.get());
  return plan;
}

// A mica_allocator on malloc that counts what is out, and can fail.
class CountingAllocator {
 public:
  const mica_allocator* get() const { return &table_; }
  // The n-th request from now on (0: the next) fails; with `for_ever` all after it too.
  void fail_at(int64_t n, bool for_ever) {
    fail_in_ = n;
    for_ever_ = for_ever;
    n_failed_ = 0;
  }
  void never_fail() { fail_in_ = -1; }
  int64_t n_failed() const { return n_failed_; }
  int64_t n_requests() const { return n_requests_; }
  int64_t live_bytes() const { return live_bytes_; }
  int64_t n_live() const { return n_live_; }
  bool wrong_size() const { return wrong_size_; }

 private:
  struct Header {
    size_t bytes, shift;
  };
  void* alloc(size_t bytes, size_t align) {
    ++n_requests_;
    if (fail_in_ == 0) {
      ++n_failed_;
      if (!for_ever_) fail_in_ = -1;
      return nullptr;
    }
    if (fail_in_ > 0) --fail_in_;
    const size_t shift = align < sizeof(Header) ? sizeof(Header) : align;
    void* p = nullptr;
    if (posix_memalign(&p, shift, bytes + shift) != 0) return nullptr;
    char* user = static_cast<char*>(p) + shift;
    const Header header = {bytes, shift};
    std::memcpy(user - sizeof header, &header, sizeof header);
    live_bytes_ += static_cast<int64_t>(bytes);
    ++n_live_;
    return user;
  }
  void free(void* ptr, size_t bytes) {
    Header header;
    std::memcpy(&header, static_cast<char*>(ptr) - sizeof header, sizeof header);
    wrong_size_ |= header.bytes != bytes;
    live_bytes_ -= static_cast<int64_t>(header.bytes);
    --n_live_;
    std::free(static_cast<char*>(ptr) - header.shift);
  }
  int64_t fail_in_ = -1, n_failed_ = 0, n_requests_ = 0, live_bytes_ = 0, n_live_ = 0;
  bool for_ever_ = false, wrong_size_ = false;
  mica_allocator table_ = {this,
                           [](void* user, size_t bytes, size_t align) {
                             return static_cast<CountingAllocator*>(user)->alloc(bytes, align);
                           },
                           [](void* user, void* ptr, size_t bytes) {
                             static_cast<CountingAllocator*>(user)->free(ptr, bytes);
                           }};
};

}  // namespace mica::test
