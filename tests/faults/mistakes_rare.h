// Mistakes that ordinary values and sizes hide: operands that are not finite, beyond F16 or tiny,
// large sizes, results that are cut off, and weights known by their address alone.
#pragma once
#include <map>

#include "mica/kv_table.h"
#include "tests/faults/mistakes_far.h"

namespace mica::faults {

template <class F>
HostTensor& each_operand(Run& r, uint32_t k, const F& change) {
  HostTensor& x = r.floats(k);
  Run::for_rows(x, [&](int64_t i1, int64_t i2, int64_t i3) {
    for (int64_t i0 = 0; i0 < x.dim[0]; ++i0) x.set(change(x.at(i0, i1, i2, i3)), i0, i1, i2, i3);
  });
  return x;
}

// --- Not finite, beyond F16, tiny ---------------------------------------------------------------

// As fmax and fmin in a kernel make of them.
inline mica_status without_nan(Run& r, uint32_t k) {
  each_operand(r, k, [](double v) { return std::isnan(v) ? 0 : v; });
  return r.reference();
}
inline mica_status without_infinity(Run& r, uint32_t k) {
  each_operand(r, k, [](double v) { return std::isinf(v) ? std::copysign(3e38, v) : v; });
  return r.reference();
}
inline mica_status matmul_nan_of_w(Run& r) { return without_nan(r, 0); }
inline mica_status matmul_nan_of_x(Run& r) { return without_nan(r, 1); }
inline mica_status matmul_infinity_of_w(Run& r) { return without_infinity(r, 0); }
inline mica_status matmul_infinity_of_x(Run& r) { return without_infinity(r, 1); }
inline mica_status rope_nan_of_x(Run& r) { return without_nan(r, 0); }
inline mica_status rope_infinity_of_x(Run& r) { return without_infinity(r, 0); }
inline mica_status silu_nan(Run& r) { return without_nan(r, 0); }
inline mica_status gelu_nan(Run& r) { return without_nan(r, 0); }
inline mica_status mul_nan_of_b(Run& r) { return without_nan(r, 1); }
inline mica_status mul_infinity_of_b(Run& r) { return without_infinity(r, 1); }
inline mica_status add_nan_of_a(Run& r) { return without_nan(r, 0); }
inline mica_status add_infinity_of_b(Run& r) { return without_infinity(r, 1); }
inline mica_status attention_nan_of_q(Run& r) { return without_nan(r, kQ); }
inline mica_status attention_infinity_of_q(Run& r) { return without_infinity(r, kQ); }
inline mica_status rms_norm_infinity_of_x(Run& r) { return without_infinity(r, 0); }
inline mica_status layer_norm_infinity_of_x(Run& r) { return without_infinity(r, 0); }
inline mica_status rms_norm_nan_of_x(Run& r) { return without_nan(r, 0); }

// What goes through F16 on its way, if a maximum does not show that it must not.
inline mica_status at_most_f16(Run& r, uint32_t k) {
  each_operand(r, k,
               [](double v) { return std::fabs(v) > 65504 ? std::copysign(HUGE_VAL, v) : v; });
  return r.reference();
}
inline mica_status attention_f16_range_of_q(Run& r) { return at_most_f16(r, kQ); }
inline mica_status attention_f16_range_of_k(Run& r) { return at_most_f16(r, kK); }
inline mica_status attention_f16_range_of_v(Run& r) { return at_most_f16(r, kV); }

inline mica_status flushed(Run& r, uint32_t k, double least = 1e-12) {
  each_operand(r, k, [=](double v) { return std::fabs(v) < least ? 0 : v; });
  return r.reference();
}
inline mica_status matmul_tiny_x(Run& r) { return flushed(r, 1); }
inline mica_status matmul_tiny_w(Run& r) { return flushed(r, 0); }
inline mica_status add_tiny(Run& r) { return flushed(r, 0); }
inline mica_status sub_tiny(Run& r) { return flushed(r, 1); }
inline mica_status mul_tiny(Run& r) { return flushed(r, 0, 1e-25); }
inline mica_status div_tiny(Run& r) { return flushed(r, 0); }
inline mica_status scale_tiny(Run& r) { return flushed(r, 0); }
inline mica_status silu_tiny(Run& r) { return flushed(r, 0); }
inline mica_status gelu_tiny(Run& r) { return flushed(r, 0); }
inline mica_status gelu_erf_tiny(Run& r) { return flushed(r, 0); }
inline mica_status relu_tiny(Run& r) { return flushed(r, 0); }
inline mica_status rope_tiny(Run& r) { return flushed(r, 0); }
inline mica_status rms_norm_tiny(Run& r) { return flushed(r, 0); }
inline mica_status layer_norm_tiny(Run& r) { return flushed(r, 0); }
inline mica_status attention_tiny_v(Run& r) { return flushed(r, kV); }

// Rows of x beyond the live ones take part in the scale of all, unless they are not-a-number: what
// is far below the largest is lost.
inline mica_status matmul_scale_of_dead_rows(Run& r) {
  const HostTensor& x = r.in[1];
  HostTensor all = x;
  for (int i = 0; i < 4; ++i) all.dim[i] = x.most(i);
  double most = 0;
  Run::for_rows(all, [&](int64_t i1, int64_t i2, int64_t i3) {
    const bool dead = i1 >= x.dim[1] || i2 >= x.dim[2] || i3 >= x.dim[3];
    for (int64_t i = 0; dead && i < all.dim[0]; ++i)
      most = std::fmax(most, std::fabs(all.at(i, i1, i2, i3)));
  });
  return flushed(r, 1, most * 1e-37);
}

// --- Sizes --------------------------------------------------------------------------------------

inline mica_status zeros_from(Run& r, int64_t column, int64_t row) {
  const mica_status status = r.reference();
  each_result(r, [=](double v, int64_t i0, int64_t i1, int64_t, int64_t) {
    return i0 >= column || i1 >= row ? 0 : v;
  });
  return status;
}
inline mica_status matmul_2048_columns(Run& r) { return zeros_from(r, 2048, INT64_MAX); }
inline mica_status matmul_512_rows(Run& r) { return zeros_from(r, INT64_MAX, 512); }
inline mica_status matmul_65535_columns(Run& r) { return zeros_from(r, 65535, INT64_MAX); }
inline mica_status matmul_65535_rows(Run& r) { return zeros_from(r, INT64_MAX, 65535); }
inline mica_status add_65535_rows(Run& r) { return zeros_from(r, INT64_MAX, 65535); }
inline mica_status rms_norm_65535_rows(Run& r) { return zeros_from(r, INT64_MAX, 65535); }

// Of a row of logits only so many are looked at.
inline mica_status row_of_at_most(Run& r, int64_t n) {
  if (r.in[0].dim[0] <= n) return r.reference();
  HostTensor& x = r.floats(0);
  Run::for_rows(x, [&](int64_t i1, int64_t i2, int64_t i3) {
    for (int64_t i = n; i < x.dim[0]; ++i) x.set(-HUGE_VAL, i, i1, i2, i3);
  });
  return r.reference();
}
inline mica_status argmax_65536_columns(Run& r) { return row_of_at_most(r, 65536); }
inline mica_status top_k_65536_columns(Run& r) { return row_of_at_most(r, 65536); }
inline mica_status sample_131072_columns(Run& r) { return row_of_at_most(r, 131072); }
inline mica_status softmax_4096_columns(Run& r) { return row_of_at_most(r, 4096); }

inline mica_status ids_of_16_bits(Run& r, uint32_t k) {
  int32_t* ids = r.ints(k);
  for (int64_t i = 0; i < r.in[k].dim[0]; ++i) ids[i] &= ids[i] < 0 ? -1 : 0xffff;
  return r.reference();
}
inline mica_status get_rows_16_bits(Run& r) { return ids_of_16_bits(r, 1); }
inline mica_status set_rows_16_bits(Run& r) { return ids_of_16_bits(r, 2); }

// --- kv_shift, sample ---------------------------------------------------------------------------

template <class F>
mica_status each_shift(Run& r, const F& change) {
  int32_t* words = r.ints(1);
  for (int32_t i = 0; i < words[0]; ++i) change(words + 1 + i * MICA_KV_SHIFT_WORDS);
  return r.reference();
}
inline mica_status kv_shift_from_div_ignored(Run& r) {
  return each_shift(r, [](int32_t* entry) { entry[MICA_KV_SHIFT_FROM_DIV] = 1; });
}
inline mica_status kv_shift_at_most_1000(Run& r) {
  return each_shift(r, [](int32_t* e) {
    if (e[MICA_KV_SHIFT_TO_DIV] != e[MICA_KV_SHIFT_FROM_DIV]) return;
    const int32_t by = e[MICA_KV_SHIFT_TO] - e[MICA_KV_SHIFT_FROM];
    const int32_t most = 1000 * e[MICA_KV_SHIFT_TO_DIV];
    e[MICA_KV_SHIFT_TO] = e[MICA_KV_SHIFT_FROM] + std::max(-most, std::min(by, most));
  });
}
inline mica_status parameter_times(Run& r, int64_t i_parameter, double factor) {
  HostTensor& p = r.floats(1);
  for (int64_t i = 0; i < p.dim[1]; ++i) p.set(p.at(i_parameter, i) * factor, i_parameter, i);
  return r.reference();
}
inline mica_status sample_temperature_larger(Run& r) { return parameter_times(r, 0, 1.001); }
inline mica_status sample_top_p_larger(Run& r) { return parameter_times(r, 2, 1.001); }
inline mica_status sample_top_p_smaller(Run& r) { return parameter_times(r, 2, 0.999); }
inline mica_status sample_min_p_larger(Run& r) { return parameter_times(r, 3, 1.001); }
inline mica_status sample_min_p_smaller(Run& r) { return parameter_times(r, 3, 0.999); }

// --- Results of F16 and BF16 --------------------------------------------------------------------

// Small ones are cut off instead of rounded.
inline mica_status cut_off(Run& r) {
  const HostTensor y = r.call.out;
  if (y.dtype != MICA_F16 && y.dtype != MICA_BF16) return r.reference();
  std::vector<float> values(static_cast<size_t>(y.elements()));
  HostTensor exact = y;
  exact.dtype = MICA_F32;
  exact.data = values.data();
  int64_t stride = sizeof(float);
  for (int i = 0; i < 4; ++i) exact.stride[i] = stride, stride *= y.dim[i];
  r.call.out = exact;
  const mica_status status = r.reference();
  r.call.out = y;
  const int bits = y.dtype == MICA_F16 ? 10 : 7;
  each_result(r, [&](double, int64_t i0, int64_t i1, int64_t i2, int64_t i3) {
    const double v = exact.at(i0, i1, i2, i3);
    if (!std::isfinite(v) || std::fabs(v) > 0.5 || std::fabs(v) < 1e-4) return v;
    const double step = std::ldexp(1, std::ilogb(v) - bits);
    return std::trunc(v / step) * step;
  });
  return status;
}
inline mica_status add_cut_off(Run& r) { return cut_off(r); }
inline mica_status mul_cut_off(Run& r) { return cut_off(r); }
inline mica_status silu_cut_off(Run& r) { return cut_off(r); }
inline mica_status rms_norm_cut_off(Run& r) { return cut_off(r); }
inline mica_status rope_cut_off(Run& r) { return cut_off(r); }
inline mica_status softmax_cut_off(Run& r) { return cut_off(r); }

// --- Weights ------------------------------------------------------------------------------------

// A weight in a form of the kernel's own, made once and known by its address and size.
inline mica_status matmul_weights_by_address(Run& r) {
  static std::map<std::pair<const void*, int64_t>, std::vector<float>> known;
  if (r.partition.values[r.node.input[0]].storage != MICA_B_WEIGHT) return r.reference();
  const void* const address = r.in[0].data;
  const HostTensor& w = r.floats(0);
  auto* values = static_cast<float*>(w.data);
  const auto n = static_cast<size_t>(w.elements());
  std::vector<float>& kept = known[{address, w.elements()}];
  if (kept.empty()) kept.assign(values, values + n);
  std::copy(kept.begin(), kept.end(), values);
  return r.reference();
}

}  // namespace mica::faults
