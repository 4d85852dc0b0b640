// Cosines and sines of RoPE's angles, once a step for all heads and layers. Rows of position 0 take
// no computing.
#include "backends/cpu/kernels/rope_angle.h"

MICA_CPU_BEGIN

enum AnglesInput { kPositions, kFactors };

static const char* supports(const Call&) { return nullptr; }

static uint32_t numerics(const Call&) { return MICA_NUM_F32; }

static int64_t items(const Call& call, uint32_t) { return call.in[kPositions].dim[0]; }

// So many rows that the frequencies, one power and a product a pair, take little of the time.
static int64_t grain(const Call& call, uint32_t) {
  return max_i64(1, 1024 / max_i64(1, call.out.dim[0]));
}

// Frequencies, cosines, sines.
static uint64_t scratch_bytes(const Call& call) {
  return static_cast<uint64_t>(call.out.dim[0] / 2) * (sizeof(double) + 2 * sizeof(float));
}

// Radians per position of each pair.
static void set_frequencies(const Call& call, double* out) {
  const mica_rope_angles_args& a = *static_cast<const mica_rope_angles_args*>(call.args);
  const float* factors = reinterpret_cast<const float*>(call.in[kFactors].data);
  const RopeScale scale = rope_scale(a);
  // Powers by repeated products: 1e-16 a step, and later pairs turn slower.
  const double ratio = rope_power(a, 1);
  double power = 1.0;
  for (int64_t i = 0; i < a.n_rot / 2; ++i, power *= ratio) {
    const double original = factors != nullptr ? power / static_cast<double>(factors[i]) : power;
    out[i] = original * rope_slowdown(scale, i);
  }
}

static void run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch) {
  const int32_t* positions = reinterpret_cast<const int32_t*>(call.in[kPositions].data);
  const int64_t n_pairs = call.out.dim[0] / 2;
  double* const radians = reinterpret_cast<double*>(scratch);
  float* const cosine = reinterpret_cast<float*>(radians + n_pairs);
  float* const sine = cosine + n_pairs;
  bool have_radians = false;
  for (int64_t row = first; row < end; ++row) {
    float* y = reinterpret_cast<float*>(call.out.data + row * call.out.stride[1]);
    if (positions[row] == 0) {
      for (int64_t i = 0; i < n_pairs; ++i) y[2 * i] = 1.0f, y[2 * i + 1] = 0.0f;
      continue;
    }
    if (!have_radians) set_frequencies(call, radians);
    have_radians = true;
    cos_sin<false>(radians, positions[row], n_pairs, cosine, sine);
    for (int64_t i = 0; i < n_pairs; ++i) y[2 * i] = cosine[i], y[2 * i + 1] = sine[i];
  }
}

static constexpr Kernel kRows[] = {
    {"rope_angles", "", 1, supports, numerics, nullptr, scratch_bytes, items, run, grain},
};

MICA_CPU_KERNELS(rope_angles, kRows, MICA_KNOWS(rope_angles, beta_slow))

MICA_CPU_END
