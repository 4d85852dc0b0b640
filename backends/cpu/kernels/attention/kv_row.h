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

// d = (the first value of largest magnitude) / -8, q = x / d + 8.
static inline void encode_q4_0(const float* x, char* block) {
  float y[kQuantElems];
  int32_t q[kQuantElems];
  float largest = 0.0f;
  for (int i = 0; i < kQuantElems; ++i) y[i] = within(x[i], 8 * kLargestF16);
  for (int i = 0; i < kQuantElems; ++i) {
    largest = abs_of(y[i]) > abs_of(largest) ? y[i] : largest;
  }
  const float d = largest / -8.0f;
  const uint16_t half = mica::f32_to_f16(d);
  const float inverse = inverse_scale(d, half);
  __builtin_memcpy(block, &half, 2);
  for (int i = 0; i < kQuantElems; ++i) {
    const int32_t v = mica::round_even(y[i] * inverse) + 8;
    q[i] = v < 0 ? 0 : v > 15 ? 15 : v;
  }
  for (int i = 0; i < 16; ++i) block[2 + i] = static_cast<char>(q[i] | (q[i + 16] << 4));
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
    char* at = to + block * (2 + p.quant_bytes);
    if (p.dtype == MICA_Q8_0) {
      encode_q8_0(x + block * kQuantElems, at);
    } else {
      encode_q4_0(x + block * kQuantElems, at);
    }
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
    const char* at = row + block * (2 + p.quant_bytes);
    float* y = x + block * kQuantElems;
    uint16_t half;
    __builtin_memcpy(&half, at, 2);
    const float d = mica::f16_to_f32(half);
    for (int i = 0; i < kQuantElems; ++i) {
      const int nibble = at[2 + i % 16] >> (i / 16 * 4) & 15;
      y[i] = d *
             static_cast<float>(p.dtype == MICA_Q4_0 ? nibble - 8 : static_cast<int8_t>(at[2 + i]));
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
