// More mistakes: small relative errors, too little precision, not-a-number, state and aliasing:
// what shows in regions, whole graphs and behind other ops, where roundings could hide it.
#pragma once
#include "tests/faults/run.h"

namespace mica::faults {

template <class F>
void each_result(Run& r, const F& change) {  // change(value, i0, i1, i2, i3)
  const HostTensor& y = r.call.out;
  Run::for_rows(y, [&](int64_t i1, int64_t i2, int64_t i3) {
    for (int64_t i0 = 0; i0 < y.dim[0]; ++i0)
      y.set(change(y.at(i0, i1, i2, i3), i0, i1, i2, i3), i0, i1, i2, i3);
  });
}
inline mica_status times(Run& r, double factor) {
  const mica_status status = r.reference();
  each_result(r, [&](double v, int64_t, int64_t, int64_t, int64_t) { return v * factor; });
  return status;
}
inline mica_status not_a_number(Run& r) { return times(r, NAN); }
inline double as_f16(double v) {
  return static_cast<double>(f16_to_f32(f32_to_f16(static_cast<float>(v))));
}
inline double as_bf16(double v) {
  return static_cast<double>(bf16_to_f32(f32_to_bf16(static_cast<float>(v))));
}
inline mica_status results_as(Run& r, double (*rounded)(double)) {
  const mica_status status = r.reference();
  each_result(r, [&](double v, int64_t, int64_t, int64_t, int64_t) { return rounded(v); });
  return status;
}
// The last element of each row gets the row's first.
inline mica_status last_element_wrong(Run& r) {
  const mica_status status = r.reference();
  const HostTensor& y = r.call.out;
  Run::for_rows(y, [&](int64_t i1, int64_t i2, int64_t i3) {
    y.set(y.at(0, i1, i2, i3), y.dim[0] - 1, i1, i2, i3);
  });
  return status;
}

// --- matmul: precision
// ----------------------------------------------------------------------------

inline mica_status matmul_nan(Run& r) { return not_a_number(r); }
inline mica_status matmul_one_per_mille(Run& r) { return times(r, 1.001); }
inline mica_status matmul_five_per_mille(Run& r) { return times(r, 1.005); }
inline mica_status matmul_f16_results(Run& r) { return results_as(r, as_f16); }
inline mica_status matmul_bf16_results(Run& r) { return results_as(r, as_bf16); }
inline mica_status matmul_last_element(Run& r) { return last_element_wrong(r); }

// Products are those of the numerics; `add` says what a sum becomes after each n_each of them.
template <class Add>
mica_status sums_of(Run& r, size_t n_each, const Add& add) {
  const HostTensor &w = r.in[0], &x = r.in[1], &y = r.call.out;
  const auto k = static_cast<size_t>(w.dim[0]);
  std::vector<double> a(k), b(k);
  Run::for_rows(y, [&](int64_t m, int64_t i2, int64_t i3) {
    x.read_row(a.data(), m, i2, i3);
    round_activations(r.call, a.data(), w.dim[0]);
    for (int64_t n = 0; n < y.dim[0]; ++n) {
      w.read_row(b.data(), n, i2 / (x.most(2) / w.dim[2]), i3 / (x.most(3) / w.dim[3]));
      round_weights(r.call.numerics, w.dtype, b.data(), w.dim[0]);
      double sum = 0;
      for (size_t first = 0; first < k; first += n_each) {
        double part = 0;
        for (size_t i = first; i < k && i < first + n_each; ++i) part += a[i] * b[i];
        sum = add(sum, part);
      }
      y.set(sum, n, m, i2, i3);
    }
  });
  return MICA_OK;
}
inline mica_status matmul_f16_sums(Run& r) {
  return sums_of(r, 64, [](double sum, double part) { return as_f16(sum + part); });
}
inline mica_status matmul_bf16_sums(Run& r) {
  return sums_of(r, 64, [](double sum, double part) { return as_bf16(sum + part); });
}

// No mistake: sums in F32 that lose what lies beyond its bits, as matrix units make them.
inline mica_status matmul_truncated_sums(Run& r) {
  return sums_of(r, 8, [](double sum, double part) {
    const auto nearest = static_cast<float>(sum + part);
    const bool away = std::fabs(static_cast<double>(nearest)) > std::fabs(sum + part);
    return static_cast<double>(away ? std::nextafter(nearest, 0.0f) : nearest);
  });
}

// The last block of 32 of one row of w 2 % too large.
inline mica_status matmul_one_scale(Run& r) {
  HostTensor& w = r.floats(0);
  for (int64_t k = (w.dim[0] - 1) / 32 * 32; k < w.dim[0]; ++k)
    w.set(w.at(k, w.dim[1] - 1) * 1.02, k, w.dim[1] - 1);
  return r.reference();
}

// int8 activations with ties rounded away from zero.
inline mica_status matmul_half_away(Run& r) {
  if (r.call.numerics != MICA_NUM_Q8_32) return r.reference();
  HostTensor& x = r.floats(1);
  std::vector<double> row(static_cast<size_t>(x.dim[0]));
  Run::for_rows(x, [&](int64_t i1, int64_t i2, int64_t i3) {
    x.read_row(row.data(), i1, i2, i3);
    for (size_t first = 0; first < row.size(); first += 32) {
      float most = 0;
      const size_t end = std::min(first + 32, row.size());
      for (size_t i = first; i < end; ++i)
        most = std::max(most, std::fabs(static_cast<float>(row[i])));
      for (size_t i = first; i < end; ++i)
        row[i] = static_cast<double>(q8_scale(most)) *
                 static_cast<double>(std::round(static_cast<float>(row[i]) * q8_inverse(most)));
    }
    x.write_row(row.data(), i1, i2, i3);
  });
  r.call.numerics = MICA_NUM_F64;
  return r.reference();
}

// --- attention
// ------------------------------------------------------------------------------------

inline mica_status attention_nan(Run& r) { return not_a_number(r); }
inline mica_status attention_two_percent(Run& r) { return times(r, 1.02); }
inline mica_status attention_bf16_results(Run& r) { return results_as(r, as_bf16); }
inline mica_status attention_one_nan(Run& r) {  // one element of one head of the last token
  const mica_status status = r.reference();
  const HostTensor& y = r.call.out;
  if (y.elements() > 0) y.set(NAN, y.dim[0] - 1, y.dim[1] - 1, y.dim[2] - 1);
  return status;
}
inline mica_status attention_last_head_copied(Run& r) {
  const mica_status status = r.reference();
  const HostTensor& y = r.call.out;
  for (int64_t t = 0; t < y.dim[2]; ++t)
    for (int64_t i = 0; i < y.dim[0]; ++i) y.set(y.at(i, 0, t), i, y.dim[1] - 1, t);
  return status;
}
// Nobody sees the cell that was stored last.
inline mica_status attention_last_cell_unseen(Run& r) {
  int32_t* positions = r.ints(kPositions);
  for (int64_t t = 0; t < r.in[kPositions].dim[0]; ++t)
    if (positions[t] > 0) --positions[t];
  return r.reference();
}

// --- rope, norms, elements
// ------------------------------------------------------------------------

inline mica_status rope_angles_base_one_percent(Run& r) {
  r.args<mica_rope_angles_args>().base *= 1.01f;
  return r.reference();
}
inline mica_status rope_one_per_mille(Run& r) { return times(r, 1.001); }
inline mica_status rope_angles_next_position(Run& r) {
  int32_t* positions = r.ints(0);
  for (int64_t t = 0; t < r.in[0].dim[0]; ++t) ++positions[t];
  return r.reference();
}
inline mica_status rms_norm_five_per_mille(Run& r) { return times(r, 1.005); }
inline mica_status rms_norm_eps_ten_times(Run& r) {
  r.args<mica_rms_norm_args>().eps *= 10;
  return r.reference();
}
inline mica_status layer_norm_two_percent(Run& r) { return times(r, 1.02); }
inline mica_status silu_one_per_mille(Run& r) { return times(r, 1.001); }
inline mica_status silu_f16_results(Run& r) { return results_as(r, as_f16); }
inline mica_status add_last_element(Run& r) {  // of the second operand, dropped
  const HostTensor x = r.floats(0);            // a copy: the result may lie in its memory
  const mica_status status = r.reference();
  const HostTensor& y = r.call.out;
  Run::for_rows(y, [&](int64_t i1, int64_t i2, int64_t i3) {
    y.set(x.at(y.dim[0] - 1, i1, i2, i3), y.dim[0] - 1, i1, i2, i3);
  });
  return status;
}
inline mica_status mul_last_element(Run& r) { return last_element_wrong(r); }
inline mica_status get_rows_next_row(Run& r) {
  int32_t* ids = r.ints(1);
  const int64_t n = r.in[1].dim[0] * r.in[1].dim[1];
  if (n > 0 && ids[n - 1] > 0) --ids[n - 1];
  return r.reference();
}
inline mica_status scale_bias_ignored(Run& r) {
  r.args<mica_scale_args>().bias = 0;
  return r.reference();
}
inline mica_status concat_swapped(Run& r) {
  if (r.in[0].elements() != r.in[1].elements()) return r.reference();
  std::swap(r.in[0], r.in[1]);
  return r.reference();
}
inline mica_status softmax_mask_ignored(Run& r) {
  r.in[1].data = nullptr;
  return r.reference();
}

// --- state, extents, aliasing
// ---------------------------------------------------------------------

// The last token's row goes into the cell behind its own too, or into the first of the next page.
inline mica_status also_stored_in(Run& r, bool next_page) {
  const mica_status status = r.reference();
  const int64_t n = r.in[2].dim[0];
  if (n == 0) return status;
  const int64_t slot = r.in[2].int_at(n - 1);
  const int64_t other = next_page ? (slot / 64 + 1) * 64 : slot + 1;
  const HostTensor& state = r.call.out;
  if (slot < 0 || other >= state.dim[2]) return status;
  for (int64_t h = 0; h < state.dim[1]; ++h)
    std::memcpy(const_cast<char*>(state.row(h, other)), state.row(h, slot),
                static_cast<size_t>(state.stride[1]));
  return status;
}
inline mica_status kv_append_next_cell(Run& r) { return also_stored_in(r, false); }
inline mica_status kv_append_next_page(Run& r) { return also_stored_in(r, true); }
inline mica_status kv_append_one_per_mille(Run& r) {
  HostTensor& x = r.floats(1);
  Run::for_rows(x, [&](int64_t i1, int64_t i2, int64_t i3) {
    for (int64_t i = 0; i < x.dim[0]; ++i) x.set(x.at(i, i1, i2, i3) * 1.001, i, i1, i2, i3);
  });
  return r.reference();
}
inline mica_status extent_ignored_add(Run& r) { return extent_ignored(r); }
inline mica_status extent_ignored_copy(Run& r) { return extent_ignored(r); }
// Reads from where a view's base begins.
inline mica_status copy_view_offset(Run& r) {
  const mica_b_value& view = r.partition.values[r.node.input[0]];
  uint64_t base = view.offset;
  for (uint32_t i = 1; i < r.partition.n_values; ++i) {
    const mica_b_value& v = r.partition.values[i];
    const bool holds = v.storage == view.storage && v.buffer == view.buffer &&
                       v.offset <= view.offset && v.offset + v.bytes >= view.offset + view.bytes;
    if (holds && v.offset < base) base = v.offset;
  }
  r.in[0].data = static_cast<char*>(r.in[0].data) - (view.offset - base);
  return r.reference();
}
// A claimed region knows an operand by its size alone: rows with gaps are read as packed ones.
inline mica_status fused_add_by_size(Run& r) {
  if (!r.is_fused()) return r.reference();
  for (uint32_t k = 0; k < 2; ++k) {
    HostTensor& x = r.in[k];
    if (x.elements() != r.call.out.elements() || is_quantized(x.dtype)) continue;
    for (int i = 1; i < 4; ++i) x.stride[i] = x.stride[i - 1] * x.max_dim[i - 1];
  }
  return r.reference();
}
// Writes before it has read: wrong where the result lies in an operand's memory.
inline mica_status add_clears_first(Run& r) {
  each_result(r, [](double, int64_t, int64_t, int64_t, int64_t) { return 0.0; });
  return r.reference();
}

}  // namespace mica::faults
