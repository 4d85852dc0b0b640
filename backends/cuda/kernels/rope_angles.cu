// Cosines and sines of rotary position embedding, once a step for all heads and layers. Frequencies
// are computed in double when a plan is compiled, the rest in double on the device; rows of
// position 0 take no computing.
#include "backends/cuda/kernels/plain_rows.cuh"
#include "backends/cuda/kernels/rope_angle.cuh"
#include "ops/rope_args.h"

namespace mica::cuda {
namespace {

constexpr int kPairs = 256;  // of one launch: as many as a kernel's arguments hold
constexpr int kThreads = 128;

enum AnglesInput { kPositions, kFactors };

struct AnglesArgs {
  double radians[kPairs];  // per position, before the frequency factor
  uint64_t positions, factors, out, live;
  int64_t row_floats;  // of the result
  int64_t n_rows;
  int first, n;  // pairs of this launch
};

// A thread a pair; blocks go through the rows in strides of the grid.
__global__ void __launch_bounds__(kThreads) angles_kernel(const __grid_constant__ AnglesArgs a) {
  start_next();
  wait_for_inputs();
  const int64_t live = live_count(a.live, a.n_rows);
  const int64_t n_rows = live < a.n_rows ? live : a.n_rows;
  for (int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const int32_t position = reinterpret_cast<const int32_t*>(a.positions)[row];
    float* to = reinterpret_cast<float*>(a.out) + row * a.row_floats + 2 * a.first;
    for (int i = static_cast<int>(threadIdx.x); i < a.n; i += kThreads) {
      double cosine = 1, sine = 0;
      if (position != 0) {
        double radians = a.radians[i];
        if (a.factors != 0)
          radians /= static_cast<double>(reinterpret_cast<const float*>(a.factors)[a.first + i]);
        cos_sin<false>(position * radians, cosine, sine);
      }
      to[2 * i] = static_cast<float>(cosine);
      to[2 * i + 1] = static_cast<float>(sine);
    }
  }
}

mica_status record(const Call& call, Recorder& recorder) {
  const auto& args = call.arg<mica_rope_angles_args>();
  AnglesArgs a = {};
  a.positions = call.in[kPositions].address;
  a.factors = call.n_in > kFactors && !call.in[kFactors].absent() ? call.in[kFactors].address : 0;
  a.out = call.out.address;
  a.live = call.out.live;
  a.row_floats = call.out.dim[0];
  a.n_rows = call.out.dim[1];
  const RopeScale scale = rope_scale(args);
  const int n_pairs = static_cast<int>(args.n_rot / 2);
  for (a.first = 0; a.first < n_pairs; a.first += kPairs) {
    a.n = n_pairs - a.first < kPairs ? n_pairs - a.first : kPairs;
    for (int i = 0; i < a.n; ++i) a.radians[i] = rope_radians(args, scale, a.first + i);
    const mica_status status =
        launch(recorder, angles_kernel, grid_for(call, a.n_rows, 16), dim3(kThreads), 0, a);
    if (status != MICA_OK) return status;
  }
  return MICA_OK;
}

const char* supports(const Call& call) {
  // A launch has some pairs of all rows.
  return call.out.dim[0] > 65536 ? "its rows are too large" : nullptr;
}

constexpr Kernel kRows[] = {{"rope_angles", "", supports, numerics_f32, nullptr, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(rope_angles, kRows, MICA_KNOWS(rope_angles, beta_slow))
