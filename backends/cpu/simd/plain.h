// simd.h in plain C++ with the compiler's vector extension (GCC, Clang): four vectors of 4 lanes,
// which every 64-bit CPU has or the compiler splits. Included by simd.h only.
#pragma once

MICA_CPU_BEGIN

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));

struct f32x16 {
  f32x4 q[4];
};
struct i32x16 {
  i32x4 q[4];
};
struct mask16 {  // all bits of a lane set or clear
  i32x4 q[4];
};

MICA_INLINE f32x16 set1(float f) {
  const f32x4 v = {f, f, f, f};
  return {{v, v, v, v}};
}
MICA_INLINE f32x16 zero() { return set1(0.0f); }
MICA_INLINE f32x16 load(const float* p) {
  f32x16 r;
  __builtin_memcpy(&r, p, 64);
  return r;
}
MICA_INLINE f32x16 load_n(const float* p, int64_t n) {
  float lanes[16] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
MICA_INLINE void store(float* p, f32x16 a) { __builtin_memcpy(p, &a, 64); }
MICA_INLINE void store_n(float* p, f32x16 a, int64_t n) {
  float lanes[16];
  store(lanes, a);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

MICA_INLINE i32x16 set1_i32(int32_t i) {
  const i32x4 v = {i, i, i, i};
  return {{v, v, v, v}};
}
MICA_INLINE i32x16 iota() {
  const i32x4 a = {0, 1, 2, 3}, b = {4, 5, 6, 7}, c = {8, 9, 10, 11}, d = {12, 13, 14, 15};
  return {{a, b, c, d}};
}
MICA_INLINE i32x16 load_i32(const int32_t* p) {
  i32x16 r;
  __builtin_memcpy(&r, p, 64);
  return r;
}
MICA_INLINE i32x16 load_i32_n(const int32_t* p, int64_t n) {
  int32_t lanes[16] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load_i32(lanes);
}
MICA_INLINE void store_i32(int32_t* p, i32x16 a) { __builtin_memcpy(p, &a, 64); }
MICA_INLINE i32x16 as_i32(f32x16 a) {
  i32x16 r;
  __builtin_memcpy(&r, &a, 64);
  return r;
}
MICA_INLINE f32x16 as_f32(i32x16 a) {
  f32x16 r;
  __builtin_memcpy(&r, &a, 64);
  return r;
}
MICA_INLINE i32x16 as_ints(mask16 m) { return {{m.q[0], m.q[1], m.q[2], m.q[3]}}; }

MICA_INLINE i32x16 operator+(i32x16 a, i32x16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] = (i32x4)((u32x4)a.q[i] + (u32x4)b.q[i]);
  return a;
}
MICA_INLINE i32x16 operator-(i32x16 a, i32x16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] = (i32x4)((u32x4)a.q[i] - (u32x4)b.q[i]);
  return a;
}
MICA_INLINE i32x16 operator&(i32x16 a, i32x16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] &= b.q[i];
  return a;
}
MICA_INLINE i32x16 operator|(i32x16 a, i32x16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] |= b.q[i];
  return a;
}
MICA_INLINE i32x16 operator^(i32x16 a, i32x16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] ^= b.q[i];
  return a;
}
template <int kBits>
MICA_INLINE i32x16 shl(i32x16 a) {
  for (int i = 0; i < 4; ++i) a.q[i] = (i32x4)((u32x4)a.q[i] << kBits);
  return a;
}
template <int kBits>  // zeros come in
MICA_INLINE i32x16 shr(i32x16 a) {
  for (int i = 0; i < 4; ++i) a.q[i] = (i32x4)((u32x4)a.q[i] >> kBits);
  return a;
}
template <int kBits>  // the sign comes in
MICA_INLINE i32x16 sra(i32x16 a) {
  for (int i = 0; i < 4; ++i) a.q[i] = a.q[i] >> kBits;
  return a;
}
MICA_INLINE mask16 gt(i32x16 a, i32x16 b) {
  mask16 m;
  for (int i = 0; i < 4; ++i) m.q[i] = a.q[i] > b.q[i];
  return m;
}
MICA_INLINE mask16 eq(i32x16 a, i32x16 b) {
  mask16 m;
  for (int i = 0; i < 4; ++i) m.q[i] = a.q[i] == b.q[i];
  return m;
}
MICA_INLINE f32x16 to_f32(i32x16 a) {
  f32x16 r;
  for (int i = 0; i < 4; ++i) r.q[i] = __builtin_convertvector(a.q[i], f32x4);
  return r;
}

MICA_INLINE mask16 lt(f32x16 a, f32x16 b) {
  mask16 m;
  for (int i = 0; i < 4; ++i) m.q[i] = a.q[i] < b.q[i];
  return m;
}
MICA_INLINE mask16 le(f32x16 a, f32x16 b) {
  mask16 m;
  for (int i = 0; i < 4; ++i) m.q[i] = a.q[i] <= b.q[i];
  return m;
}
MICA_INLINE mask16 gt(f32x16 a, f32x16 b) { return lt(b, a); }
MICA_INLINE mask16 ge(f32x16 a, f32x16 b) { return le(b, a); }
MICA_INLINE mask16 eq(f32x16 a, f32x16 b) {
  mask16 m;
  for (int i = 0; i < 4; ++i) m.q[i] = a.q[i] == b.q[i];
  return m;
}
MICA_INLINE mask16 is_nan(f32x16 a) {
  mask16 m;
  for (int i = 0; i < 4; ++i) m.q[i] = a.q[i] != a.q[i];
  return m;
}
MICA_INLINE i32x16 select(mask16 m, i32x16 a, i32x16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] = (a.q[i] & m.q[i]) | (b.q[i] & ~m.q[i]);
  return a;
}
MICA_INLINE f32x16 select(mask16 m, f32x16 a, f32x16 b) {
  return as_f32(select(m, as_i32(a), as_i32(b)));
}
// Bit i: lane i.
MICA_INLINE uint32_t bits(mask16 m) {
  uint32_t r = 0;
  for (int i = 0; i < 16; ++i) r |= static_cast<uint32_t>(m.q[i / 4][i % 4] & 1) << i;
  return r;
}
MICA_INLINE bool any(mask16 m) {
  const i32x4 o = m.q[0] | m.q[1] | m.q[2] | m.q[3];
  return (o[0] | o[1] | o[2] | o[3]) != 0;
}
MICA_INLINE mask16 mask_and(mask16 a, mask16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] &= b.q[i];
  return a;
}
MICA_INLINE mask16 mask_or(mask16 a, mask16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] |= b.q[i];
  return a;
}
MICA_INLINE mask16 mask_first(int64_t n) { return gt(set1_i32(static_cast<int32_t>(n)), iota()); }

MICA_INLINE f32x16 operator+(f32x16 a, f32x16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] += b.q[i];
  return a;
}
MICA_INLINE f32x16 operator-(f32x16 a, f32x16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] -= b.q[i];
  return a;
}
MICA_INLINE f32x16 operator*(f32x16 a, f32x16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] *= b.q[i];
  return a;
}
MICA_INLINE f32x16 operator/(f32x16 a, f32x16 b) {
  for (int i = 0; i < 4; ++i) a.q[i] /= b.q[i];
  return a;
}
// a * b + c and c - a * b, rounded twice.
MICA_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return a * b + c; }
MICA_INLINE f32x16 fnma(f32x16 a, f32x16 b, f32x16 c) { return c - a * b; }
MICA_INLINE f32x16 max(f32x16 a, f32x16 b) { return select(gt(a, b), a, b); }
MICA_INLINE f32x16 min(f32x16 a, f32x16 b) { return select(lt(a, b), a, b); }
MICA_INLINE f32x16 sqrt(f32x16 a) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) a.q[i][j] = __builtin_sqrtf(a.q[i][j]);
  return a;
}
MICA_INLINE f32x16 abs(f32x16 a) { return as_f32(as_i32(a) & set1_i32(0x7fffffff)); }
MICA_INLINE f32x16 neg(f32x16 a) { return as_f32(as_i32(a) ^ set1_i32(INT32_MIN)); }
// The magnitude of `a` with the sign of `s`.
MICA_INLINE f32x16 copy_sign(f32x16 a, f32x16 s) {
  return as_f32((as_i32(a) & set1_i32(0x7fffffff)) | (as_i32(s) & set1_i32(INT32_MIN)));
}
// From 2^23 on every float is whole; below, adding 2^23 leaves no place for a fraction.
// Lanes 1, 0, 3, 2, …
MICA_INLINE f32x16 swap_pairs(f32x16 a) {
  for (f32x4& q : a.q) q = __builtin_shufflevector(q, q, 1, 0, 3, 2);
  return a;
}
MICA_INLINE f32x16 round_even(f32x16 a) {
  const f32x16 magic = copy_sign(set1(8388608.0f), a);
  const f32x16 whole = copy_sign((a + magic) - magic, a);
  return select(lt(abs(a), set1(8388608.0f)), whole, a);
}
// Half to even; out of range gives INT32_MIN.
MICA_INLINE i32x16 to_i32(f32x16 a) {
  const f32x16 whole = round_even(a);
  const mask16 fits = mask_and(ge(whole, set1(-2147483648.0f)), lt(whole, set1(2147483648.0f)));
  const f32x16 safe = select(fits, whole, zero());
  i32x16 r;
  for (int i = 0; i < 4; ++i) r.q[i] = __builtin_convertvector(safe.q[i], i32x4);
  return select(fits, r, set1_i32(INT32_MIN));
}

MICA_INLINE i32x16 load_i8(const int8_t* p) {
  int32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = p[i];
  return load_i32(lanes);
}
MICA_INLINE i32x16 load_u8(const uint8_t* p) {
  int32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = p[i];
  return load_i32(lanes);
}
// Values must be in [-128, 127].
MICA_INLINE void store_i8(int8_t* p, i32x16 a) {
  int32_t lanes[16];
  store_i32(lanes, a);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(lanes[i]);
}

MICA_INLINE i32x16 load_u16(const uint16_t* p) {
  int32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = p[i];
  return load_i32(lanes);
}
MICA_INLINE i32x16 load_u16_n(const uint16_t* p, int64_t n) {
  int32_t lanes[16] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load_i32(lanes);
}
MICA_INLINE void store_u16_n(uint16_t* p, i32x16 a, int64_t n) {
  int32_t lanes[16];
  store_i32(lanes, a);
  for (int64_t i = 0; i < n; ++i) p[i] = static_cast<uint16_t>(lanes[i]);
}
// The exponent is rebiased by a multiplication, which also normalises subnormals.
MICA_INLINE f32x16 widen_f16(i32x16 h) {
  const i32x16 magnitude = h & set1_i32(0x7fff);
  const i32x16 sign = shl<16>(h & set1_i32(0x8000));
  const f32x16 finite = as_f32(shl<13>(magnitude)) * as_f32(set1_i32(0x77800000));  // 2^112
  const i32x16 special = shl<13>(magnitude) | set1_i32(0x7f800000);
  const i32x16 nan_quiet = special | set1_i32(0x400000);
  const mask16 is_special = gt(magnitude, set1_i32(0x7bff));
  const mask16 is_f16_nan = gt(magnitude, set1_i32(0x7c00));
  return as_f32(select(is_f16_nan, nan_quiet, select(is_special, special, as_i32(finite))) | sign);
}
MICA_INLINE i32x16 narrow_f16(f32x16 a) {
  const i32x16 u = as_i32(a) & set1_i32(0x7fffffff);
  const i32x16 sign = shr<16>(as_i32(a) & set1_i32(INT32_MIN));
  // Normal: round at bit 13, carry runs into the exponent and up to infinity.
  const i32x16 odd = shr<13>(u) & set1_i32(1);
  const i32x16 normal = shr<13>(u + (set1_i32(0xfff - (112 << 23)) + odd));
  // Subnormal: in [0.5, 1) the last place of a float is 2^-24, that of an F16 subnormal.
  const i32x16 subnormal = as_i32(as_f32(u) + set1(0.5f)) - set1_i32(0x3f000000);
  const i32x16 nan = set1_i32(0x7e00) | (shr<13>(u) & set1_i32(0x3ff));
  i32x16 r = select(gt(set1_i32(0x38800000), u), subnormal, normal);
  r = select(gt(u, set1_i32(0x477fffff)), set1_i32(0x7c00), r);
  r = select(gt(u, set1_i32(0x7f800000)), nan, r);
  return r | sign;
}
MICA_INLINE f32x16 load_f16(const uint16_t* p) { return widen_f16(load_u16(p)); }
MICA_INLINE f32x16 load_f16_n(const uint16_t* p, int64_t n) { return widen_f16(load_u16_n(p, n)); }
MICA_INLINE void store_f16(uint16_t* p, f32x16 a) { store_u16_n(p, narrow_f16(a), 16); }
MICA_INLINE void store_f16_n(uint16_t* p, f32x16 a, int64_t n) { store_u16_n(p, narrow_f16(a), n); }
MICA_INLINE i32x16 narrow_bf16(f32x16 a) {
  const i32x16 u = as_i32(a);
  const i32x16 rounded = u + ((shr<16>(u) & set1_i32(1)) + set1_i32(0x7fff));
  return shr<16>(select(is_nan(a), u | set1_i32(0x400000), rounded));
}
MICA_INLINE f32x16 load_bf16(const uint16_t* p) { return as_f32(shl<16>(load_u16(p))); }
MICA_INLINE f32x16 load_bf16_n(const uint16_t* p, int64_t n) {
  return as_f32(shl<16>(load_u16_n(p, n)));
}
MICA_INLINE void store_bf16(uint16_t* p, f32x16 a) { store_u16_n(p, narrow_bf16(a), 16); }
MICA_INLINE void store_bf16_n(uint16_t* p, f32x16 a, int64_t n) {
  store_u16_n(p, narrow_bf16(a), n);
}

MICA_INLINE float reduce_add(f32x16 a) {
  const f32x4 s = (a.q[0] + a.q[2]) + (a.q[1] + a.q[3]);
  return (s[0] + s[2]) + (s[1] + s[3]);
}
MICA_INLINE float larger(float a, float b) { return a > b ? a : b; }
MICA_INLINE float smaller(float a, float b) { return a < b ? a : b; }
MICA_INLINE float reduce_max(f32x16 a) {
  float r[8];
  for (int i = 0; i < 8; ++i) r[i] = larger(a.q[i / 4][i % 4], a.q[i / 4 + 2][i % 4]);
  for (int i = 0; i < 4; ++i) r[i] = larger(r[i], r[i + 4]);
  return larger(larger(r[0], r[2]), larger(r[1], r[3]));
}
MICA_INLINE float reduce_min(f32x16 a) {
  float r[8];
  for (int i = 0; i < 8; ++i) r[i] = smaller(a.q[i / 4][i % 4], a.q[i / 4 + 2][i % 4]);
  for (int i = 0; i < 4; ++i) r[i] = smaller(r[i], r[i + 4]);
  return smaller(smaller(r[0], r[2]), smaller(r[1], r[3]));
}

// a * 2^n for integral n in [-252, 254]; also into the subnormals.
MICA_INLINE f32x16 scale_2(f32x16 a, f32x16 n) {
  const i32x16 whole = to_i32(n);
  const i32x16 half = sra<1>(whole);
  const f32x16 p = as_f32(shl<23>(half + set1_i32(127)));
  const f32x16 q = as_f32(shl<23>((whole - half) + set1_i32(127)));
  return (a * p) * q;
}

// What rounding took from p = a * b; exact unless it underflows. Upper halves of 12 bits have exact
// products (Dekker 1971).
MICA_INLINE f32x16 mul_error(f32x16 a, f32x16 b, f32x16 p) {
  const i32x16 upper = set1_i32(static_cast<int32_t>(0xfffff000u));
  const f32x16 a_hi = as_f32(as_i32(a) & upper), b_hi = as_f32(as_i32(b) & upper);
  const f32x16 a_lo = a - a_hi, b_lo = b - b_hi;
  return (((a_hi * b_hi - p) + a_hi * b_lo) + a_lo * b_hi) + a_lo * b_lo;
}

MICA_CPU_END
