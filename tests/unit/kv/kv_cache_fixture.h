// What the tests of the KV cache share: a backend that only says how large pages are, and a cache
// on it.
#pragma once
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "core/base/device.h"
#include "core/kv/kv_cache.h"

namespace mica::kv_test {

inline uint32_t fake_count(const mica_host*) { return 1; }
inline mica_status fake_info(const mica_host*, uint32_t, mica_device_info* info) {
  *info = {};
  return MICA_OK;
}
inline mica_status fake_open(const mica_host*, const char*, mica_b_device** out) {
  static char handle;
  *out = reinterpret_cast<mica_b_device*>(&handle);
  return MICA_OK;
}
inline void fake_close(mica_b_device*) {}
inline mica_status fake_state(mica_b_device*, mica_device_info* info) {
  return fake_info(nullptr, 0, info);
}
inline mica_status fake_kv_layout(mica_b_device*, const mica_b_kv_desc* d, uint32_t* layout,
                                  uint64_t* bytes) {
  if (d->dtype == MICA_Q4_1) return MICA_UNSUPPORTED;
  *layout = 7 + d->is_v;
  *bytes = uint64_t{64} * d->n_kv_heads * d->head_dim * 2 + d->is_v;
  return MICA_OK;
}

inline mica_backend fake_backend() {
  mica_backend b = *mica_backend_ref();  // whose other functions no test of the tables calls
  b.name = "fake";
  b.device_count = fake_count;
  b.device_info = fake_info;
  b.device_open = fake_open;
  b.device_close = fake_close;
  b.device_state = fake_state;
  b.kv_layout = fake_kv_layout;
  return b;
}

class KvFixture : public testing::Test {
 protected:
  KvFixture() {
    EXPECT_EQ(mica_context_create(nullptr, &context), MICA_OK);
    EXPECT_EQ(mica_context_add_backend(context, &backend), MICA_OK);
    EXPECT_EQ(mica_device_open(context, "fake", &device), MICA_OK);
  }
  ~KvFixture() override {
    mica_kv_cache_release(cache);
    mica_device_release(device);
    mica_context_release(context);
  }
  static mica_kv_layer layer(uint32_t window = 0, uint32_t n_first = 0) {
    mica_kv_layer l = MICA_KV_LAYER_INIT;
    l.n_kv_heads = 2;
    l.head_dim_k = 64;
    l.head_dim_v = 32;
    l.window = window;
    l.n_first = n_first;
    return l;
  }
  mica_status make(const std::vector<mica_kv_layer>& layers, uint32_t n_cells, uint32_t max_seqs,
                   uint32_t max_step_tokens, uint32_t max_entries = 0) {
    mica_kv_params p = MICA_KV_PARAMS_INIT;
    p.n_layers = static_cast<uint32_t>(layers.size());
    p.layers = layers.data();
    p.n_cells = n_cells;
    p.max_seqs = max_seqs;
    p.max_step_tokens = max_step_tokens;
    p.max_entries = max_entries;
    p.keys = keys;
    p.max_turns = max_turns;
    mica_kv_cache_release(cache);
    return mica_kv_cache_create(device, &p, &cache);
  }
  mica_status reserve(std::vector<mica_kv_span> spans) {
    return mica_kv_reserve(cache, static_cast<uint32_t>(spans.size()), spans.data());
  }
  void step(std::vector<mica_kv_span> spans) {
    ASSERT_EQ(reserve(std::move(spans)), MICA_OK) << mica_context_error(context);
    ASSERT_EQ(mica_kv_commit(cache), MICA_OK);
  }
  uint64_t pages_used() const {
    mica_kv_usage u;
    EXPECT_EQ(mica_kv_cache_usage(cache, &u), MICA_OK);
    return u.n_pages - u.n_pages_free;
  }

  mica_kv_keys keys = MICA_KV_KEYS_ROTATED;  // of the caches that `make` makes
  uint32_t max_turns = 0;
  mica_backend backend = fake_backend();
  mica_context* context = nullptr;
  mica_device* device = nullptr;
  mica_kv_cache* cache = nullptr;
};

}  // namespace mica::kv_test
