// Rotary position embedding by rows of the op rope_angles' table; F32.
#include "backends/cuda/kernels/elements.cuh"
#include "backends/cuda/kernels/plain_rows.cuh"
#include "ops/rope.h"
#include "ops/rope_args.h"

namespace mica::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeads = 8;  // of one block

enum RopeInput { kX, kAngles };

struct RopeArgs {
  Tensor x, out;
  uint64_t angles;  // F32 [2 * n_pairs, n_tokens]
  float magnitude;
  int n_pairs, offset;
  bool adjacent;
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
  start_next();
  wait_for_inputs();
  int64_t n_tokens = live_count(a.out.live, a.out.dim[2]);
  if (n_tokens > a.out.dim[2]) n_tokens = a.out.dim[2];
  const int first_head = static_cast<int>(blockIdx.y) * kHeads;
  const int n_heads = min(kHeads, static_cast<int>(a.x.dim[1]) - first_head);
  const int n_rest = static_cast<int>(a.x.dim[0]) - 2 * a.n_pairs;
  for (int64_t token = blockIdx.x; token < n_tokens; token += gridDim.x) {
    const auto* angles = reinterpret_cast<const float*>(a.angles) + token * 2 * a.n_pairs;
    const char* x = reinterpret_cast<const char*>(a.x.address) + token * a.x.stride[2] +
                    first_head * a.x.stride[1];
    char* y = reinterpret_cast<char*>(a.out.address) + token * a.out.stride[2] +
              first_head * a.out.stride[1];
    for (int item = static_cast<int>(threadIdx.x); item < n_heads * a.n_pairs; item += kThreads) {
      const int head = item / a.n_pairs, pair = item - head * a.n_pairs;
      const float cosine = a.magnitude * angles[2 * pair];
      const float sine = a.magnitude * angles[2 * pair + 1];
      const char* from = x + head * a.x.stride[1];
      char* to = y + head * a.out.stride[1];
      const int d0 = a.offset + (a.adjacent ? 2 * pair : pair);
      const int d1 = d0 + (a.adjacent ? 1 : a.n_pairs);
      const float x0 = get(a.x.dtype, from, d0), x1 = get(a.x.dtype, from, d1);
      put(a.x.dtype, to, d0, x0 * cosine - x1 * sine);
      put(a.x.dtype, to, d1, x0 * sine + x1 * cosine);
    }
    for (int item = static_cast<int>(threadIdx.x); item < n_heads * n_rest; item += kThreads) {
      const int head = item / n_rest, i = item - head * n_rest;
      copy_one(a.x.dtype, x + head * a.x.stride[1], y + head * a.out.stride[1],
               i < a.offset ? i : i + 2 * a.n_pairs);
    }
  }
}

mica_status record(const Call& call, Recorder& recorder) {
  const auto& args = call.arg<mica_rope_args>();
  RopeArgs a = {};
  a.x = call.in[kX];
  a.out = call.out;
  a.angles = call.in[kAngles].address;
  a.magnitude = args.magnitude;
  a.n_pairs = static_cast<int>(args.n_rot / 2);
  a.offset = static_cast<int>(args.offset);
  a.adjacent = args.pairing == MICA_ROPE_ADJACENT;
  dim3 grid = grid_for(call, a.x.dim[2], 16);
  grid.y = static_cast<unsigned>((a.x.dim[1] + kHeads - 1) / kHeads);
  return launch(recorder, rope_tokens, grid, dim3(kThreads), 0, a);
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

MICA_CUDA_KERNELS(rope, kRows, MICA_KNOWS(rope, magnitude))
