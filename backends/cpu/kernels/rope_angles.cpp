// Cosines and sines of RoPE's angles, by which attention rotates queries. Most rows are of position
// 0 and take no computing.
#include "backends/cpu/kernels/rope.h"

MICA_CPU_BEGIN

enum AnglesInput { kAnglesPositions, kAnglesFactors };

static const char* supports(const Call&) { return nullptr; }

static uint32_t numerics(const Call&) { return MICA_NUM_F32; }

static int64_t items(const Call& call, uint32_t) { return call.in[kAnglesPositions].dim[0]; }

static int64_t grain(const Call& call, uint32_t) {
  return max_i64(1, 4096 / max_i64(1, call.out.dim[0]));
}

static void run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch) {
  const mica_rope_args& a = *static_cast<const mica_rope_args*>(call.args);
  const int32_t* positions = reinterpret_cast<const int32_t*>(call.in[kAnglesPositions].data);
  const int64_t n_pairs = a.n_rot / 2;
  const RopeScratch s = carve(n_pairs, scratch);
  bool have_radians = false;
  for (int64_t row = first; row < end; ++row) {
    float* y = reinterpret_cast<float*>(call.out.data + row * call.out.stride[1]);
    if (positions[row] == 0) {
      for (int64_t i = 0; i < n_pairs; ++i) y[2 * i] = 1.0f, y[2 * i + 1] = 0.0f;
      continue;
    }
    if (!have_radians) rope_frequencies(a, call.in[kAnglesFactors], s.radians);
    have_radians = true;
    cos_sin(s.radians, positions[row], 1.0, n_pairs, s.cos, s.sin);
    for (int64_t i = 0; i < n_pairs; ++i) y[2 * i] = s.cos[i], y[2 * i + 1] = s.sin[i];
  }
}

static constexpr Kernel kRows[] = {
    {"rope_angles", "", 1, supports, numerics, nullptr, rope_scratch_bytes, items, run, grain},
};

MICA_CPU_KERNELS(rope_angles, kRows, MICA_KNOWS_AS(rope_angles, rope, beta_slow))

MICA_CPU_END
