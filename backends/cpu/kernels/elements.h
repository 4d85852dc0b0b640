// What kernels over elements and rows share: cutting tensors into chunks, and chunks as floats
// whatever their dtype and strides.
#pragma once
#include "backends/cpu/simd/simd.h"

MICA_CPU_BEGIN

constexpr int64_t kChunk = 1024;  // elements; three chunks of floats stay in the first-level cache

MICA_INLINE int64_t elem_bytes(mica_dtype dtype) {
  return dtype == MICA_F32 || dtype == MICA_I32 ? 4 : dtype == MICA_I64 ? 8 : 2;
}
MICA_INLINE bool is_float(mica_dtype dtype) {
  return dtype == MICA_F32 || dtype == MICA_F16 || dtype == MICA_BF16;
}
MICA_INLINE int64_t rows_of(const Tensor& t) { return t.dim[1] * t.dim[2] * t.dim[3]; }
MICA_INLINE int64_t elements_of(const Tensor& t) { return t.dim[0] * rows_of(t); }
// Elements (of plain types) are adjacent in a row.
MICA_INLINE bool dense_rows(const Tensor& t) {
  return t.dim[0] == 1 || t.stride[0] == elem_bytes(t.dtype);
}
// All rows are adjacent: one run of elements (of plain types).
MICA_INLINE bool packed(const Tensor& t) {
  int64_t stride = elem_bytes(t.dtype);
  for (int i = 0; i < 4; ++i) {
    if (t.dim[i] != 1 && t.stride[i] != stride) return false;
    stride *= t.dim[i];
  }
  return true;
}

struct RowIndex {
  int64_t i[3];  // of dim[1], dim[2], dim[3]
};
MICA_INLINE RowIndex row_index(const Tensor& t, int64_t row) {
  const int64_t rest = row / t.dim[1];
  return {{row - rest * t.dim[1], rest % t.dim[2], rest / t.dim[2]}};
}
MICA_INLINE char* row_at(const Tensor& t, RowIndex r) {
  return t.data + r.i[0] * t.stride[1] + r.i[1] * t.stride[2] + r.i[2] * t.stride[3];
}
MICA_INLINE char* row_at(const Tensor& t, int64_t row) { return row_at(t, row_index(t, row)); }
// The row of `t` that stands at r when dimensions of 1 are repeated.
MICA_INLINE char* repeated_row_at(const Tensor& t, RowIndex r) {
  for (int i = 0; i < 3; ++i) r.i[i] = t.dim[i + 1] == 1 ? 0 : r.i[i];
  return row_at(t, r);
}

// dst[0 … n) from n adjacent elements.
template <class Elem>
MICA_INLINE void widen(const typename Elem::T* src, int64_t n, float* dst) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(dst + i, Elem::get(src + i));
  if (i < n) store_n(dst + i, Elem::get_n(src + i, n - i), n - i);
}
template <class Elem>
MICA_INLINE void narrow(const float* src, int64_t n, typename Elem::T* dst) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) Elem::put(dst + i, load(src + i));
  if (i < n) Elem::put_n(dst + i, load_n(src + i, n - i), n - i);
}

// One element of a float type.
MICA_INLINE float float_at(mica_dtype dtype, const char* p) {
  if (dtype == MICA_F32) return ElemF32::one(reinterpret_cast<const float*>(p));
  const uint16_t* half = reinterpret_cast<const uint16_t*>(p);
  return dtype == MICA_F16 ? ElemF16::one(half) : ElemBF16::one(half);
}

// Elements [first, first + n) of the row at `row` as floats: where they are when they are that,
// else in `buffer`.
static inline const float* read_floats(const Tensor& t, const char* row, int64_t first, int64_t n,
                                       float* buffer) {
  if (!dense_rows(t)) {
    const char* p = row + first * t.stride[0];
    for (int64_t i = 0; i < n; ++i) buffer[i] = float_at(t.dtype, p + i * t.stride[0]);
    return buffer;
  }
  const char* p = row + first * elem_bytes(t.dtype);
  if (t.dtype == MICA_F32) return reinterpret_cast<const float*>(p);
  const uint16_t* half = reinterpret_cast<const uint16_t*>(p);
  if (t.dtype == MICA_F16) {
    widen<ElemF16>(half, n, buffer);
  } else {
    widen<ElemBF16>(half, n, buffer);
  }
  return buffer;
}

// Where floats for elements [first, …) of a dense row may be written: in place, or in `buffer`;
// write_floats then converts the latter.
static inline float* place_floats(const Tensor& t, char* row, int64_t first, float* buffer) {
  return t.dtype == MICA_F32 ? reinterpret_cast<float*>(row) + first : buffer;
}
static inline void write_floats(const Tensor& t, char* row, int64_t first, int64_t n,
                                const float* src) {
  if (t.dtype == MICA_F32) {
    float* dst = reinterpret_cast<float*>(row) + first;
    if (dst != src) narrow<ElemF32>(src, n, dst);
    return;
  }
  uint16_t* dst = reinterpret_cast<uint16_t*>(row) + first;
  if (t.dtype == MICA_F16) {
    narrow<ElemF16>(src, n, dst);
  } else {
    narrow<ElemBF16>(src, n, dst);
  }
}

// How an elementwise kernel is cut: into chunks of rows, or of the one run that all rows make.
struct Cut {
  int64_t row_elems, chunks;  // a row's elements and chunks
  bool flat;
};
MICA_INLINE Cut cut(const Tensor& out, bool flat) {
  const int64_t n = flat ? elements_of(out) : out.dim[0];
  return {n, div_up_i64(n, kChunk), flat};
}
MICA_INLINE int64_t cut_items(const Tensor& out, Cut c) {
  return c.flat ? c.chunks : c.chunks * rows_of(out);
}
// Items that make at least four chunks of elements.
MICA_INLINE int64_t cut_grain(Cut c) {
  return c.row_elems >= kChunk ? 4 : 4 * kChunk / max_i64(c.row_elems, 1);
}

// Rows worth taking at a time.
MICA_INLINE int64_t rows_grain(int64_t row_elems) {
  return row_elems >= 4 * kChunk ? 1 : 4 * kChunk / max_i64(row_elems, 1);
}

static inline uint32_t numerics_f32(const Call&) { return MICA_NUM_F32; }
static inline uint32_t numerics_exact(const Call&) { return MICA_NUM_EXACT; }

static inline const char* float_inputs(const Call& call) {
  for (uint32_t i = 0; i < call.n_in; ++i) {
    if (call.in[i].data != nullptr && !is_float(call.in[i].dtype)) {
      return "an input is not f32, f16 or bf16";
    }
  }
  return nullptr;
}

MICA_CPU_END
