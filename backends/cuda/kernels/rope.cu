// Rotary position embedding. Frequencies are computed in double when the step is compiled; angles,
// sines and cosines in double on the device, once for a token, a pair and some heads; the rotation
// is F32.
#include "backends/cuda/kernels/elements.cuh"
#include "backends/cuda/kernels/rope_angle.cuh"
#include "ops/rope.h"

namespace mica::cuda {
namespace {

constexpr int kPairs = 256;  // of one launch: as many as a kernel's arguments hold
constexpr int kThreads = 256;
constexpr int kHeads = 8;  // of one block

enum RopeInput { kX, kPositions, kFactors };

struct RopeArgs {
  double radians[kPairs];  // per position, before the frequency factor
  Tensor x, out;
  uint64_t positions, factors;  // 0: none
  double magnitude;
  int first, n;         // pairs of this launch
  int n_pairs, offset;  // of a head
  bool adjacent;
  bool copies;  // what is not rotated, too
};

__device__ float get(mica_dtype dtype, const char* row, int i) {
  if (dtype == MICA_F32) return reinterpret_cast<const float*>(row)[i];
  return widen(dtype, reinterpret_cast<const uint16_t*>(row)[i]);
}
__device__ void put(mica_dtype dtype, char* row, int i, float v) {
  if (dtype == MICA_F32) {
    reinterpret_cast<float*>(row)[i] = v;
  } else {
    reinterpret_cast<uint16_t*>(row)[i] = narrow(dtype, v);
  }
}
// Bit by bit: a NaN stays the one it was.
__device__ void copy_one(mica_dtype dtype, const char* from, char* to, int i) {
  if (dtype == MICA_F32) {
    reinterpret_cast<uint32_t*>(to)[i] = reinterpret_cast<const uint32_t*>(from)[i];
  } else {
    reinterpret_cast<uint16_t*>(to)[i] = reinterpret_cast<const uint16_t*>(from)[i];
  }
}

// blockIdx.x: tokens, in strides of the grid; blockIdx.y: kHeads heads. y may be x: a thread reads
// what it writes, and nothing else.
__global__ void __launch_bounds__(kThreads) rope_tokens(const __grid_constant__ RopeArgs a) {
  __shared__ float cosine[kPairs], sine[kPairs];
  start_next();
  wait_for_inputs();
  int64_t n_tokens = live_count(a.out.live, a.out.dim[2]);
  if (n_tokens > a.out.dim[2]) n_tokens = a.out.dim[2];
  const int first_head = static_cast<int>(blockIdx.y) * kHeads;
  const int n_heads = min(kHeads, static_cast<int>(a.x.dim[1]) - first_head);
  for (int64_t token = blockIdx.x; token < n_tokens; token += gridDim.x) {
    const double position = reinterpret_cast<const int32_t*>(a.positions)[token];
    for (int i = static_cast<int>(threadIdx.x); i < a.n; i += kThreads) {
      double radians = a.radians[i];
      if (a.factors != 0)
        radians /= static_cast<double>(reinterpret_cast<const float*>(a.factors)[a.first + i]);
      cos_sin(position * radians, a.magnitude, cosine[i], sine[i]);
    }
    __syncthreads();
    const char* x = reinterpret_cast<const char*>(a.x.address) + token * a.x.stride[2] +
                    first_head * a.x.stride[1];
    char* y = reinterpret_cast<char*>(a.out.address) + token * a.out.stride[2] +
              first_head * a.out.stride[1];
    for (int item = static_cast<int>(threadIdx.x); item < n_heads * a.n; item += kThreads) {
      const int head = item / a.n, i = item - head * a.n, pair = a.first + i;
      const char* from = x + head * a.x.stride[1];
      char* to = y + head * a.out.stride[1];
      const int d0 = a.offset + (a.adjacent ? 2 * pair : pair);
      const int d1 = d0 + (a.adjacent ? 1 : a.n_pairs);
      const float x0 = get(a.x.dtype, from, d0), x1 = get(a.x.dtype, from, d1);
      put(a.x.dtype, to, d0, x0 * cosine[i] - x1 * sine[i]);
      put(a.x.dtype, to, d1, x0 * sine[i] + x1 * cosine[i]);
    }
    const int n_rest = a.copies ? static_cast<int>(a.x.dim[0]) - 2 * a.n_pairs : 0;
    for (int item = static_cast<int>(threadIdx.x); item < n_heads * n_rest; item += kThreads) {
      const int head = item / n_rest, i = item - head * n_rest;
      copy_one(a.x.dtype, x + head * a.x.stride[1], y + head * a.out.stride[1],
               i < a.offset ? i : i + 2 * a.n_pairs);
    }
    __syncthreads();
  }
}

mica_status record(const Call& call, Recorder& recorder) {
  const auto& args = call.arg<mica_rope_args>();
  RopeArgs a = {};
  a.x = call.in[kX];
  a.out = call.out;
  a.positions = call.in[kPositions].address;
  a.factors = call.n_in > kFactors && !call.in[kFactors].absent() ? call.in[kFactors].address : 0;
  a.magnitude = rope_magnitude(args);
  a.n_pairs = static_cast<int>(args.n_rot / 2);
  a.offset = static_cast<int>(args.offset);
  a.adjacent = args.pairing == MICA_ROPE_ADJACENT;
  const RopeScale scale = rope_scale(args);
  dim3 grid = grid_for(call, a.x.dim[2], 16);
  grid.y = static_cast<unsigned>((a.x.dim[1] + kHeads - 1) / kHeads);
  for (a.first = 0; a.first < a.n_pairs; a.first += kPairs) {
    a.n = a.n_pairs - a.first < kPairs ? a.n_pairs - a.first : kPairs;
    a.copies = a.first == 0;
    for (int i = 0; i < a.n; ++i) a.radians[i] = rope_radians(args, scale, a.first + i);
    const mica_status status = launch(recorder, rope_tokens, grid, dim3(kThreads), 0, a);
    if (status != MICA_OK) return status;
  }
  return MICA_OK;
}

const char* supports(const Call& call) {
  const Tensor& x = call.in[kX];
  if (!is_float(x.dtype)) return "x is not f32, f16 or bf16";
  if (x.stride[0] != float_bytes(x.dtype)) return "the elements of x are not adjacent";
  if (x.dim[0] > 65536 || x.dim[1] > 65535 * kHeads) return "its heads are too many or too large";
  return nullptr;
}

constexpr Kernel kRows[] = {{"rope", "", supports, numerics_f32, nullptr, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(rope, kRows, MICA_KNOWS(rope, beta_slow))
