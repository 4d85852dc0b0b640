// Rows of K or V to and from the cells of a page: encoded as ops/dtypes does, bit by bit, and put
// where kv_page.h says.
#pragma once
#include "backends/cpu/kernels/attention/kv_page.h"
#include "backends/cpu/simd/simd.h"

MICA_CPU_BEGIN
namespace {

constexpr float kLargestF16 = 65504.0f;

static inline float abs_of(float x) { return x < 0.0f ? -x : x; }

// A NaN counts as 0; what a block cannot hold is moved to the limit.
static inline float within(float x, float limit) {
  return x > limit ? limit : x < -limit ? -limit : x == x ? x : 0.0f;
}

static inline float inverse_scale(float d, uint16_t stored) {
  return (stored & 0x7fffu) == 0 ? 0.0f : 1.0f / d;
}

// d = max |x| / 127, q = x / d.
static inline void encode_q8_0(const float* x, char* block) {
  float y[kQuantElems];
  float largest = 0.0f;
  for (int i = 0; i < kQuantElems; ++i) y[i] = within(x[i], 127 * kLargestF16);
  for (int i = 0; i < kQuantElems; ++i) {
    largest = abs_of(y[i]) > largest ? abs_of(y[i]) : largest;
  }
  const float d = largest / 127.0f;
  const uint16_t half = mica::f32_to_f16(d);
  const float inverse = inverse_scale(d, half);
  __builtin_memcpy(block, &half, 2);
  for (int i = 0; i < kQuantElems; ++i) {
    block[2 + i] = static_cast<char>(mica::round_even(y[i] * inverse));
  }
}

static inline int32_t clamp_quant(int32_t q, int32_t last) {
  return q < 0 ? 0 : q > last ? last : q;
}

// The quants' low 4 bits, and of 5-bit types their fifth bits before them.
static inline void put_quants(const int32_t* q, bool has_fifths, char* to) {
  for (int i = 0; has_fifths && i < 4; ++i) {
    int32_t bits = 0;
    for (int j = 0; j < 8; ++j) bits |= (q[8 * i + j] >> 4) << j;
    *to++ = static_cast<char>(bits);
  }
  for (int i = 0; i < 16; ++i) to[i] = static_cast<char>((q[i] & 15) | ((q[i + 16] & 15) << 4));
}

// d = (the first value of largest magnitude) / -kZero, q = x / d + kZero.
template <int32_t kZero>
static inline void encode_symmetric(const float* x, char* block) {
  float y[kQuantElems];
  int32_t q[kQuantElems];
  float largest = 0.0f;
  for (int i = 0; i < kQuantElems; ++i) y[i] = within(x[i], kZero * kLargestF16);
  for (int i = 0; i < kQuantElems; ++i) {
    largest = abs_of(y[i]) > abs_of(largest) ? y[i] : largest;
  }
  const float d = largest / static_cast<float>(-kZero);
  const uint16_t half = mica::f32_to_f16(d);
  const float inverse = inverse_scale(d, half);
  __builtin_memcpy(block, &half, 2);
  for (int i = 0; i < kQuantElems; ++i) {
    q[i] = clamp_quant(mica::round_even(y[i] * inverse) + kZero, 2 * kZero - 1);
  }
  put_quants(q, kZero == 16, block + 2);
}

// m = min, d = (max - min) / kLast, q = (x - m) / d.
template <int32_t kLast>
static inline void encode_range(const float* x, char* block) {
  float y[kQuantElems];
  int32_t q[kQuantElems];
  for (int i = 0; i < kQuantElems; ++i) y[i] = within(x[i], kLargestF16);
  float low = y[0], high = y[0];
  for (int i = 1; i < kQuantElems; ++i) {
    low = y[i] < low ? y[i] : low;
    high = y[i] > high ? y[i] : high;
  }
  const float d = (high - low) / static_cast<float>(kLast);
  const uint16_t halves[] = {mica::f32_to_f16(d), mica::f32_to_f16(low)};
  const float inverse = inverse_scale(d, halves[0]);
  __builtin_memcpy(block, halves, 4);
  for (int i = 0; i < kQuantElems; ++i) {
    q[i] = clamp_quant(mica::round_even((y[i] - low) * inverse), kLast);
  }
  put_quants(q, kLast == 31, block + 4);
}

static inline void encode_block(mica_dtype dtype, const float* x, char* block) {
  switch (dtype) {
    case MICA_Q8_0:
      return encode_q8_0(x, block);
    case MICA_Q4_0:
      return encode_symmetric<8>(x, block);
    case MICA_Q4_1:
      return encode_range<15>(x, block);
    case MICA_Q5_0:
      return encode_symmetric<16>(x, block);
    default:
      return encode_range<31>(x, block);  // Q5_1
  }
}

// The row as F32, zeros up to `n_pad`.
static inline void read_row(mica_dtype dtype, const char* from, int64_t n, int64_t n_pad,
                            float* to) {
  for (int64_t i = 0; i < n_pad; i += 16) {
    const int64_t left = max_i64(0, min_i64(16, n - i));
    f32x16 x = zero();
    if (left > 0) {
      const char* at = from + i * (dtype == MICA_F32 ? 4 : 2);
      const uint16_t* halves = reinterpret_cast<const uint16_t*>(at);
      x = dtype == MICA_F32   ? load_n(reinterpret_cast<const float*>(at), left)
          : dtype == MICA_F16 ? load_f16_n(halves, left)
                              : load_bf16_n(halves, left);
    }
    store(to + i, x);
  }
}

// F32 to the bytes of a plain row, whole blocks.
static inline void encode_row(const KvPage& p, const float* x, int64_t n_pad, char* to) {
  if (p.dtype == MICA_F16 || p.dtype == MICA_BF16) {
    uint16_t* halves = reinterpret_cast<uint16_t*>(to);
    for (int64_t i = 0; i < n_pad; i += 16) {
      if (p.dtype == MICA_F16) {
        store_f16(halves + i, load(x + i));
      } else {
        store_bf16(halves + i, load(x + i));
      }
    }
    return;
  }
  for (int64_t block = 0; block < p.n_blocks; ++block) {
    encode_block(p.dtype, x + block * kQuantElems, to + block * p.block_bytes);
  }
}

// F32 goes to a page as it is, but for NaNs, which become quiet as those that are converted do.
static inline void make_quiet(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, 4);
    bits |= (bits & 0x7fffffffu) > 0x7f800000u ? 0x00400000u : 0u;
    __builtin_memcpy(x + i, &bits, 4);
  }
}

static inline void put_cell(const KvPage& p, char* head, int64_t cell, const char* row) {
  if (p.elem_bytes == 2 && !p.is_v) {
    uint16_t* to = reinterpret_cast<uint16_t*>(head + k_elem_at(p, cell, 0));
    const uint16_t* from = reinterpret_cast<const uint16_t*>(row);
    for (int64_t i = 0; i < p.head_dim; ++i) to[i * 16] = from[i];
    return;
  }
  kv_walk_cell(p, cell, [&](int64_t at, int64_t in_row, int64_t bytes) {
    char* to = head + at;
    const char* from = row + in_row;
    switch (bytes) {  // constants make the copies single stores
      case 1:
        *to = *from;
        break;
      case 2:
        __builtin_memcpy(to, from, 2);
        break;
      case 4:
        __builtin_memcpy(to, from, 4);
        break;
      default:
        __builtin_memcpy(to, from, static_cast<size_t>(bytes));
    }
  });
}

// A row of F32, zeros up to `n_pad`, to a cell. `encoded`: room for its bytes.
static inline void put_row(const KvPage& p, char* head, int64_t cell, float* x, int64_t n_pad,
                           char* encoded) {
  if (p.dtype == MICA_F32) {
    make_quiet(x, n_pad);
    put_cell(p, head, cell, reinterpret_cast<const char*>(x));
  } else {
    encode_row(p, x, n_pad, encoded);
    put_cell(p, head, cell, encoded);
  }
}

static inline void get_cell(const KvPage& p, const char* head, int64_t cell, char* row) {
  kv_walk_cell(p, cell, [&](int64_t at, int64_t in_row, int64_t bytes) {
    __builtin_memcpy(row + in_row, head + at, static_cast<size_t>(bytes));
  });
}

// The bytes of a plain row to F32, zeros from head_dim to `n_pad`.
static inline void decode_row(const KvPage& p, const char* row, int64_t n_pad, float* x) {
  if (p.elem_bytes != 0) return read_row(p.dtype, row, p.head_dim, n_pad, x);
  for (int64_t block = 0; block < p.n_blocks; ++block) {
    const char* at = row + block * p.block_bytes;
    uint16_t halves[2] = {};
    __builtin_memcpy(halves, at, static_cast<size_t>(2 * p.n_halves));
    const uint8_t* quants = reinterpret_cast<const uint8_t*>(at + 2 * p.n_halves);
    for (int64_t i = 0; i < kQuantElems; ++i) {
      x[block * kQuantElems + i] =
          kv_block_element(p, halves[0], halves[1], i, [&](int64_t n) { return quants[n]; });
    }
  }
  for (int64_t i = p.head_dim; i < n_pad; ++i) x[i] = 0.0f;
}

// The row of a cell as F32, zeros up to `n_pad`. `encoded`: room for its bytes.
static inline void get_row(const KvPage& p, const char* head, int64_t cell, float* x, int64_t n_pad,
                           char* encoded) {
  get_cell(p, head, cell, encoded);
  decode_row(p, encoded, n_pad, x);
}

}  // namespace
MICA_CPU_END
