// Small helpers that ops share: checks of operands with their sentences, packed outputs, loops over
// rows, and the rounding of activations that a kernel's numerics ask for.
#pragma once
#include "core/base/checked.h"
#include "core/base/text.h"
#include "core/base/vec.h"
#include "core/graph/op.h"
#include "ops/dtypes/half.h"
#include "ops/matmul/q8.h"

namespace mica {

// --- Descriptions -----------------------------------------------------------------------------

inline const char* dtype_name(mica_dtype dtype) { return dtype_info(dtype).name; }
inline bool is_float(mica_dtype dtype) {
  return dtype == MICA_F32 || dtype == MICA_F16 || dtype == MICA_BF16;
}
inline bool is_quantized(mica_dtype dtype) { return dtype_info(dtype).is_quantized != 0; }
// From a number of F16 or BF16 to the next farther from zero.
inline double step_at(mica_dtype dtype, double v) {
  const int least = dtype == MICA_F16 ? -14 : -126;
  int exponent = v == 0 ? least : __builtin_ilogb(v);
  if (exponent < least) exponent = least;
  return __builtin_ldexp(1, exponent - (dtype == MICA_F16 ? 10 : 7));
}

// "[64, 8, 512]", for error sentences: `shape_text(x).text`.
struct ShapeText {
  char text[96];
};
inline ShapeText shape_text(const Desc& x) {
  ShapeText shape;
  Writer writer(shape.text, sizeof shape.text);
  for (uint32_t i = 0; i < x.rank; ++i) writer.put(i == 0 ? "[" : ", ", x.dim[i]);
  writer.put("]");
  return shape;
}

// Elements (or blocks) of a row are adjacent.
inline bool rows_contiguous(const Desc& x) {
  const mica_dtype_info& info = dtype_info(x.dtype);
  return x.stride[0] == info.block_bytes || x.dim[0] == info.block_elems;
}
// The extent belongs to dim[0]: rows have no fixed length.
inline bool row_is_extent(const Desc& x) { return x.extent != kNoExtent && x.rank == 1; }

// --- Checks of operands -----------------------------------------------------------------------

inline mica_status need_float(const InferCall& call, const char* name, const Desc& x) {
  if (is_float(x.dtype)) return MICA_OK;
  return call.error.fail(MICA_INVALID_ARGUMENT, name, " is ", dtype_name(x.dtype),
                         ", not f32, f16 or bf16");
}
inline mica_status need_contiguous_rows(const InferCall& call, const char* name, const Desc& x) {
  if (rows_contiguous(x)) return MICA_OK;
  return call.error.fail(MICA_INVALID_ARGUMENT, name, " has elements ", x.stride[0],
                         " bytes apart, its rows are not contiguous: mica_copy it first");
}
inline mica_status need_fixed_rows(const InferCall& call, const char* name, const Desc& x) {
  if (!row_is_extent(x)) return MICA_OK;
  return call.error.fail(MICA_INVALID_ARGUMENT, name, " has rank 1 and an extent (maximum ",
                         x.dim[0], "): its rows have no fixed length");
}
inline mica_status need_finite(const InferCall& call, const char* name, float value) {
  if (value - value == 0) return MICA_OK;
  return call.error.fail(MICA_INVALID_ARGUMENT, name, " is not finite");
}

// Each dimension of b (from `first_dim` on) is a's or 1; where it is an extent, it is a's.
inline mica_status need_broadcast(const InferCall& call, const char* b_name, const Desc& b,
                                  const char* a_name, const Desc& a, uint32_t first_dim = 0) {
  for (uint32_t i = first_dim; i < 4; ++i) {
    if (b.dim[i] == 1 || b.dim[i] == a.dim[i]) continue;
    return call.error.fail(MICA_INVALID_ARGUMENT, b_name, " ", shape_text(b).text,
                           " does not repeat over ", a_name, " ", shape_text(a).text, ": dim[", i,
                           "] is ", b.dim[i], ", ", a_name, "'s is ", a.dim[i]);
  }
  if (b.extent != kNoExtent && (b.extent != a.extent || b.rank != a.rank)) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "dim[", b.rank - 1, "] of ", b_name,
                           " is an extent, ", a_name, " ", shape_text(a).text, " has ",
                           a.extent == kNoExtent ? "none" : "another or has it elsewhere");
  }
  if (a.extent != kNoExtent && b.extent == kNoExtent && b.dim[a.rank - 1] != 1) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "dim[", a.rank - 1, "] of ", a_name,
                           " is an extent, of ", b_name, " a fixed ", b.dim[a.rank - 1]);
  }
  return MICA_OK;
}

// Fills call.out, packed. Refuses what is not whole blocks or does not fit in 63 bits.
inline mica_status pack_output(const InferCall& call, mica_dtype dtype, uint32_t rank,
                               const int64_t* dim, uint32_t extent) {
  uint64_t bytes = 0;
  if (!tensor_bytes(dtype_info(dtype), rank, dim, bytes, call.error)) {
    return call.error.prefix("the result");
  }
  call.out = make_desc(dtype, rank, dim, extent);
  return MICA_OK;
}
inline mica_status pack_output_like(const InferCall& call, const Desc& x) {
  return pack_output(call, x.dtype, x.rank, x.dim, x.extent);
}

// --- References -------------------------------------------------------------------------------

// fn(i1, i2, i3, i_row) for every row of a tensor, i_row counting in packed order.
template <class Fn>
void for_each_row(const HostTensor& x, Fn fn) {
  int64_t i_row = 0;
  for (int64_t i3 = 0; i3 < x.dim[3]; ++i3) {
    for (int64_t i2 = 0; i2 < x.dim[2]; ++i2) {
      for (int64_t i1 = 0; i1 < x.dim[1]; ++i1) fn(i1, i2, i3, i_row++);
    }
  }
}

// Where index i of a falls in b, when a dimension of b is a's or 1.
inline int64_t repeated(int64_t i, int64_t b_dim) { return b_dim == 1 ? 0 : i; }

inline void set_terms(const RefCall& call, double n_terms) {
  if (call.n_terms != nullptr) *call.n_terms = n_terms;
}

// A number in [-1, 1) of three others.
inline double noise(uint64_t seed, uint64_t a, uint64_t b) {
  uint64_t h = seed * 0x9e3779b97f4a7c15ull + a * 0xc2b2ae3d27d4eb4full + b;
  h = (h ^ h >> 31) * 0x7fb5d329728ea185ull;
  h = (h ^ h >> 27) * 0x81dadef4bc2dd44dull;
  return static_cast<double>(static_cast<int64_t>(h ^ h >> 33)) * 0x1p-63;
}

// sqrt of the mean square of a row; 0 where that is not finite.
inline double finite_rms(const double* row, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += row[i] * row[i];
  const double rms = n > 0 ? __builtin_sqrt(squares / static_cast<double>(n)) : 0;
  return rms - rms == 0 ? rms : 0;
}

// To 11 bits, as F16 has them, whatever the row's magnitude: its largest is brought to 2^14 first.
inline void round_to_halves(double* row, int64_t n) {
  double most = 0;
  for (int64_t i = 0; i < n; ++i) most = __builtin_fmax(most, __builtin_fabs(row[i]));
  const bool usual = most > 0 && __builtin_isfinite(most);
  const double scale = usual ? __builtin_ldexp(1, 14 - __builtin_ilogb(most)) : 1;
  for (int64_t i = 0; i < n; ++i)
    row[i] = f16_to_f32(f32_to_f16(static_cast<float>(row[i] * scale))) / scale;
}

// Rounds a row of a weight as a kernel of these numerics does.
inline void round_weights(mica_numerics numerics, mica_dtype dtype, double* row, int64_t n) {
  if (numerics != MICA_NUM_F16_W || !is_quantized(dtype)) return;
  for (int64_t i = 0; i < n; ++i) row[i] = f16_to_f32(f32_to_f16(static_cast<float>(row[i])));
}

// Where the call says so, moves a row before it is rounded, by up to 2^-19 of itself and of the
// row's root mean square: what lies that near the border of two steps may go either way, and hardly
// anything else changes.
inline void move_at_borders(const RefCall& call, double* row, int64_t n) {
  if (call.border == 0) return;
  const double size = finite_rms(row, n);
  for (int64_t i = 0; i < n; ++i) {
    if (!__builtin_isfinite(row[i])) continue;
    const double way =
        noise(call.border, __builtin_bit_cast(uint64_t, row[i]), static_cast<uint64_t>(i));
    row[i] += 0x1p-19 * (__builtin_fabs(row[i]) + size) * way;
  }
}

// Rounds a row of activations (values of F32, F16 or BF16) as a kernel of the call's numerics does.
inline void round_activations(const RefCall& call, double* row, int64_t n) {
  const mica_numerics to = call.numerics;
  if (to != MICA_NUM_EXACT && to != MICA_NUM_F32 && to != MICA_NUM_F64)
    move_at_borders(call, row, n);
  switch (to) {
    case MICA_NUM_F16:
    case MICA_NUM_F16_W:
      return round_to_halves(row, n);
    case MICA_NUM_BF16:
      for (int64_t i = 0; i < n; ++i) row[i] = bf16_to_f32(f32_to_bf16(static_cast<float>(row[i])));
      return;
    case MICA_NUM_Q8_32:
      return q8_round_row(row, n, 32);
    case MICA_NUM_Q8_256:
      return q8_round_row(row, n, 256);
    default:
      return;
  }
}

}  // namespace mica
