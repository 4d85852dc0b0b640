// Rotation of heads by rows of the op rope_angles' table, which the heads of a token share. F32.
#pragma once
#include "backends/cpu/simd/simd.h"
#include "ops/rope.h"
#include "ops/rope_args.h"

MICA_CPU_BEGIN
namespace {

enum RopeInput { kX, kAngles };

// A thread's memory: cosines and sines times the magnitude, [n_pairs]; for pairs side by side each
// twice, sines with their sign, [n_rot].
struct RopeScratch {
  float* cos;
  float* sin;
};
static inline int64_t padded_rot(uint32_t n_rot) { return div_up_i64(n_rot, 16) * 16; }

// A row of the table is c0 s0 c1 s1 … To c0 c1 …, s0 s1 …
static inline void set_halves(const float* row, float m, int64_t n_pairs, const RopeScratch& s) {
  for (int64_t i = 0; i < n_pairs; ++i) {
    s.cos[i] = m * row[2 * i];
    s.sin[i] = m * row[2 * i + 1];
  }
}
// To c0 c0 c1 c1 …, -s0 s0 -s1 s1 …
static inline void set_adjacent(const float* row, float m, int64_t n_pairs, const RopeScratch& s) {
  for (int64_t i = 0; i < n_pairs; ++i) {
    const float sine = m * row[2 * i + 1];
    s.cos[2 * i] = s.cos[2 * i + 1] = m * row[2 * i];
    s.sin[2 * i] = -sine;
    s.sin[2 * i + 1] = sine;
  }
}

// Both read what they need before they write it: y may be x.
template <class E>
static void rotate_adjacent(const RopeScratch& s, int64_t n_rot, const typename E::T* x,
                            typename E::T* y) {
  int64_t i = 0;
  for (; i + 16 <= n_rot; i += 16) {
    const f32x16 v = E::get(x + i);
    E::put(y + i, fma(v, load(s.cos + i), swap_pairs(v) * load(s.sin + i)));
  }
  const int64_t n = n_rot - i;
  if (n == 0) return;
  const f32x16 v = E::get_n(x + i, n);
  E::put_n(y + i, fma(v, load_n(s.cos + i, n), swap_pairs(v) * load_n(s.sin + i, n)), n);
}

template <class E>
static void rotate_halves(const RopeScratch& s, int64_t n_pairs, const typename E::T* x,
                          typename E::T* y) {
  for (int64_t i = 0; i < n_pairs; i += 16) {
    const int64_t n = min_i64(16, n_pairs - i);
    const bool whole = n == 16;
    const f32x16 a = whole ? E::get(x + i) : E::get_n(x + i, n);
    const f32x16 b = whole ? E::get(x + n_pairs + i) : E::get_n(x + n_pairs + i, n);
    const f32x16 c = whole ? load(s.cos + i) : load_n(s.cos + i, n);
    const f32x16 t = whole ? load(s.sin + i) : load_n(s.sin + i, n);
    const f32x16 first = fnma(b, t, a * c);
    const f32x16 second = fma(b, c, a * t);
    if (whole) {
      E::put(y + i, first);
      E::put(y + n_pairs + i, second);
    } else {
      E::put_n(y + i, first, n);
      E::put_n(y + n_pairs + i, second, n);
    }
  }
}

static inline uint64_t rope_scratch_bytes(const Call& call) {
  const int64_t n = padded_rot(static_cast<const mica_rope_args*>(call.args)->n_rot);
  return 2 * static_cast<uint64_t>(n) * sizeof(float);
}

// The rotation of heads of E by a call's options: first a token's angles, then as many of its heads
// as there are.
template <class E>
struct Rotation {
  using T = typename E::T;
  const mica_rope_args* args = nullptr;
  int64_t head_dim = 0;
  const Tensor* angles = nullptr;
  RopeScratch s{};

  Rotation() = default;
  Rotation(const Call& call, char* scratch)
      : args(static_cast<const mica_rope_args*>(call.args)), head_dim(call.in[kX].dim[0]),
        angles(&call.in[kAngles]) {
    s.cos = reinterpret_cast<float*>(scratch);
    s.sin = s.cos + padded_rot(args->n_rot);
  }
  void at(int64_t token) {
    const float* row = reinterpret_cast<const float*>(angles->data + token * angles->stride[1]);
    const int64_t n_pairs = args->n_rot / 2;
    if (args->pairing == MICA_ROPE_ADJACENT) {
      set_adjacent(row, args->magnitude, n_pairs, s);
    } else {
      set_halves(row, args->magnitude, n_pairs, s);
    }
  }
  void head(const T* from, T* to) const {
    const mica_rope_args& a = *args;
    const int64_t behind = a.offset + a.n_rot;
    if (from != to) {
      __builtin_memmove(to, from, a.offset * sizeof(T));
      __builtin_memmove(to + behind, from + behind,
                        static_cast<size_t>(head_dim - behind) * sizeof(T));
    }
    if (a.pairing == MICA_ROPE_ADJACENT) {
      rotate_adjacent<E>(s, a.n_rot, from + a.offset, to + a.offset);
    } else {
      rotate_halves<E>(s, a.n_rot / 2, from + a.offset, to + a.offset);
    }
  }
};

}  // namespace
MICA_CPU_END
