// Rotary position embedding: kernels/rope.h.
#include "backends/cpu/kernels/rope.h"

MICA_CPU_BEGIN

template <class E>
static void run_tokens(const Call& call, int64_t first, int64_t end, char* scratch) {
  using T = typename E::T;
  const Tensor& x = call.in[kX];
  const Tensor& y = call.out;
  Rotation<E> rotation(call, scratch);
  for (int64_t token = first; token < end; ++token) {
    rotation.at(token);
    for (int64_t head = 0; head < x.dim[1]; ++head) {
      rotation.head(reinterpret_cast<const T*>(x.data + token * x.stride[2] + head * x.stride[1]),
                    reinterpret_cast<T*>(y.data + token * y.stride[2] + head * y.stride[1]));
    }
  }
}

static const char* supports(const Call& call) {
  const Tensor& x = call.in[kX];
  if (x.dtype != MICA_F32 && x.dtype != MICA_F16 && x.dtype != MICA_BF16) {
    return "x must be F32, F16 or BF16";
  }
  if (x.stride[0] != (x.dtype == MICA_F32 ? 4 : 2)) return "the elements of x are not adjacent";
  return nullptr;
}

static uint32_t numerics(const Call&) { return MICA_NUM_F32; }

static int64_t items(const Call& call, uint32_t) { return call.in[kX].dim[2]; }

static int64_t grain(const Call& call, uint32_t) {
  return max_i64(1, 16384 / max_i64(1, call.in[kX].dim[0] * call.in[kX].dim[1]));
}

static void run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch) {
  const mica_dtype dtype = call.in[kX].dtype;
  if (dtype == MICA_F16) return run_tokens<ElemF16>(call, first, end, scratch);
  if (dtype == MICA_BF16) return run_tokens<ElemBF16>(call, first, end, scratch);
  run_tokens<ElemF32>(call, first, end, scratch);
}

static constexpr Kernel kRows[] = {
    {"rope", "", 1, supports, numerics, nullptr, rope_scratch_bytes, items, run, grain},
};

MICA_CPU_KERNELS(rope, kRows, MICA_KNOWS(rope, magnitude))

MICA_CPU_END
