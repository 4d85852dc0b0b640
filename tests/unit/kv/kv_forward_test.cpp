// Whatever is done to a cache that moves, attention over it is that of a double-precision forward:
// random steps, edits, shifts, saves and loads of a session, each step's outputs compared.
//
// MICA_KV_ROUNDS: operations of each combination of backend, keys, type of K and network, of which
// there is one network each without it.
#include <cstdlib>
#include <iostream>

#include "tests/unit/kv/kv_forward_play.h"

namespace {

using namespace mica::kv_test;

mica_kv_layer layer(uint32_t window = 0, uint32_t n_first = 0) {
  mica_kv_layer l = MICA_KV_LAYER_INIT;
  l.window = window;
  l.n_first = n_first;
  return l;
}

mica_rope_params rope(uint32_t n_rot, uint32_t offset, mica_rope_pairing pairing, float base) {
  mica_rope_params p = MICA_ROPE_PARAMS_INIT;
  p.n_rot = n_rot;
  p.offset = offset;
  p.pairing = pairing;
  p.base = base;
  return p;
}

// Layers that see everything.
Net plain_net() {
  Net net;
  net.layers = {layer(), layer(), layer()};
  net.rope.fill(rope(64, 0, MICA_ROPE_ADJACENT, 10000));
  return net;
}

// Windows, one with first positions; part of a head is rotated, in the last layer by other angles.
Net windowed_net() {
  Net net;
  net.head_dim = 40;
  net.layers = {layer(), layer(40, 5), layer(23)};
  net.rope.fill(rope(24, 4, MICA_ROPE_HALF_SPLIT, 10000));
  net.rope[2] = rope(40, 0, MICA_ROPE_HALF_SPLIT, 500);
  return net;
}

// The last layer reads the first one's cells. YaRN, a factor for each frequency; short tables.
Net shared_net() {
  Net net;
  net.head_dim = 32;
  net.max_entries = 34;
  net.layers = {layer(), layer(30), layer()};
  net.layers[2].source = 0;
  mica_rope_params p = rope(32, 0, MICA_ROPE_ADJACENT, 10000);
  p.linear_scale = 0.25f;
  p.ext_factor = 1;
  p.attn_factor = 1.1f;
  p.n_ctx_orig = 64;
  net.rope.fill(p);
  for (int i = 0; i < 16; ++i) net.factors.push_back(0.8f + 0.05f * static_cast<float>(i));
  return net;
}

// Every layer has a window, so that the cache itself does not know all positions.
Net lossy_net() {
  Net net;
  net.layers = {layer(60), layer(25, 4), layer(60)};
  net.rope.fill(rope(64, 0, MICA_ROPE_ADJACENT, 10000));
  return net;
}

using Case = std::tuple<const char*, mica_kv_keys, size_t>;

class KvForward : public testing::TestWithParam<Case> {
 protected:
  void play(const Net& net, uint32_t i_net, int n_rounds) const {
    const auto [backend, keys, type] = GetParam();
    constexpr size_t n = std::size(kCellTypes);
    const auto dtype = [first = type](size_t i) { return kCellTypes[(first + i) % n].dtype; };
    const Kinds first = {keys, dtype(0), dtype(1)};
    const mica_kv_keys others[] = {MICA_KV_KEYS_RELATIVE, MICA_KV_KEYS_UNROTATED, MICA_KV_KEYS_NONE,
                                   MICA_KV_KEYS_ROTATED};
    const Kinds second = {others[keys], dtype(2), dtype(i_net == 1 ? 1 : 3)};
    const uint32_t seed =
        1000 * i_net + 100 * static_cast<uint32_t>(keys) + static_cast<uint32_t>(type);
    Play play(backend, net, first, second, seed);
    for (int round = 0; round < n_rounds; ++round) {
      SCOPED_TRACE("net " + std::to_string(i_net) + " round " + std::to_string(round));
      play.round();
      if (HasFatalFailure()) return;
    }
    // The same whatever the times: the sequences are not empty, and not only appended to.
    EXPECT_GT(play.n_held, 40 * static_cast<uint64_t>(n_rounds));
    EXPECT_GT(play.n_tokens, 2 * static_cast<uint64_t>(n_rounds));
    EXPECT_GT(play.n_moves, 0u);
    if (std::getenv("MICA_KV_ROUNDS") != nullptr) report(play, i_net, n_rounds);
  }

  static void report(const Play& play, uint32_t i_net, int n_rounds) {
    const auto n = static_cast<uint64_t>(n_rounds);
    std::cout << "  network " << i_net << ": " << n << " operations, " << play.n_tokens
              << " tokens, " << play.n_held / n << " cells held, " << play.n_moves << " moves, "
              << play.n_refused << " refused, " << play.n_full << " without room, " << play.n_loads
              << " loads, " << play.n_cancelled << " cancelled, " << play.n_shifted
              << " cells shifted (" << play.n_differ << " elements differ), error " << play.worst
              << " of its limit\n";
  }
};

TEST_P(KvForward, AfterAnything) {
  const char* given = std::getenv("MICA_KV_ROUNDS");
  const Net nets[] = {plain_net(), windowed_net(), shared_net(), lossy_net()};
  const auto [backend, keys, type] = GetParam();
  for (uint32_t i = 0; i < std::size(nets) && !HasFatalFailure(); ++i)
    if (given != nullptr || i == (keys + type + (backend[0] == 'c' ? 2 : 0)) % std::size(nets))
      play(nets[i], i, given != nullptr ? std::atoi(given) : 60);
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  const auto [backend, keys, type] = info.param;
  const char* names[] = {"rotated", "relative", "none", "unrotated"};
  return std::string(backend) + "_" + names[keys] + "_" +
         mica_dtype_get(kCellTypes[type].dtype)->name;
}

INSTANTIATE_TEST_SUITE_P(All, KvForward,
                         testing::Combine(testing::Values("ref", "cpu"),
                                          testing::Values(MICA_KV_KEYS_ROTATED,
                                                          MICA_KV_KEYS_RELATIVE, MICA_KV_KEYS_NONE,
                                                          MICA_KV_KEYS_UNROTATED),
                                          testing::Range<size_t>(0, std::size(kCellTypes))),
                         name_of);

}  // namespace
