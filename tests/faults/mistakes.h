// Mistakes that kernels make, as wrappers around an op's reference: each changes a copy of what the
// reference reads, or what it wrote. They are small on purpose: the suite has to see small ones.
#pragma once
#include "tests/faults/mistakes_later.h"
#include "tests/faults/mistakes_rare.h"

namespace mica::faults {

// --- matmul -------------------------------------------------------------------------------------

inline mica_status matmul_wrong_row(Run& r) {
  const mica_status status = r.reference();
  const HostTensor& y = r.call.out;
  Run::for_rows(y, [&](int64_t i1, int64_t i2, int64_t i3) {
    if (y.dim[0] > 3) y.set(y.at(0, i1, i2, i3), 3, i1, i2, i3);
  });
  return status;
}

// Multiplies the last block of 32 of each row of x, as a wrong scale of that block of w would.
inline mica_status scale_last_block(Run& r, double factor) {
  HostTensor& x = r.floats(1);
  Run::for_rows(x, [&](int64_t i1, int64_t i2, int64_t i3) {
    for (int64_t k = (x.dim[0] - 1) / 32 * 32; k < x.dim[0]; ++k)
      x.set(x.at(k, i1, i2, i3) * factor, k, i1, i2, i3);
  });
  return r.reference();
}
inline mica_status matmul_dropped_block(Run& r) { return scale_last_block(r, 0); }
inline mica_status matmul_scale_2_percent(Run& r) { return scale_last_block(r, 1.02); }

inline mica_status matmul_f16_activations(Run& r) {  // declared as exact products
  r.call.numerics = MICA_NUM_F16;
  return r.reference();
}

// --- attention ----------------------------------------------------------------------------------

// Query head j reads kv head j % n_kv_heads: heads are reordered before, and back after.
inline mica_status attention_kv_head_modulo(Run& r) {
  const HostTensor old = r.in[kQ];
  HostTensor& q = r.floats(kQ);
  const HostTensor& y = r.call.out;
  const int64_t n_kv = r.in[kK].dim[1], group = q.dim[1] / n_kv;
  std::vector<double> row(static_cast<size_t>(q.dim[0] > y.dim[0] ? q.dim[0] : y.dim[0]));
  const auto from = [&](int64_t h) { return h / group + h % group * n_kv; };
  for (int64_t t = 0; t < q.dim[2]; ++t)
    for (int64_t h = 0; h < q.dim[1]; ++h) {
      old.read_row(row.data(), from(h), t);
      q.write_row(row.data(), h, t);
    }
  const mica_status status = r.reference();
  std::vector<double> heads(static_cast<size_t>(y.dim[0] * y.dim[1]));
  for (int64_t t = 0; t < y.dim[2]; ++t) {
    for (int64_t h = 0; h < y.dim[1]; ++h)
      y.read_row(&heads[static_cast<size_t>(h * y.dim[0])], h, t);
    for (int64_t h = 0; h < y.dim[1]; ++h)
      y.write_row(&heads[static_cast<size_t>(h * y.dim[0])], from(h), t);
  }
  return status;
}

inline mica_status attention_causal_off_by_one(Run& r) {
  int32_t* positions = r.ints(kPositions);
  for (int64_t t = 0; t < r.in[kPositions].dim[0]; ++t) ++positions[t];
  auto& args = r.args<mica_attention_args>();
  if (args.window != 0) ++args.window;  // its far end stays where it was
  return r.reference();
}
inline mica_status attention_window_off_by_one(Run& r) {
  auto& args = r.args<mica_attention_args>();
  if (args.window != 0) ++args.window;
  return r.reference();
}
inline mica_status attention_first_n_ignored(Run& r) {
  r.args<mica_attention_args>().n_first = 0;
  return r.reference();
}
inline mica_status attention_softcap_ignored(Run& r) {
  r.args<mica_attention_args>().softcap = 0;
  return r.reference();
}
inline mica_status attention_sink_ignored(Run& r) {
  r.in[kSinks].data = nullptr;
  return r.reference();
}

// --- cache and conversions ----------------------------------------------------------------------

inline float truncated(mica_dtype dtype, double value) {
  const auto f = static_cast<float>(value);
  if (!std::isfinite(f)) return f;
  const bool half = dtype == MICA_F16;
  uint16_t bits = half ? f32_to_f16(f) : f32_to_bf16(f);
  const float rounded = half ? f16_to_f32(bits) : bf16_to_f32(bits);
  if (std::fabs(rounded) > std::fabs(f)) --bits;
  return half ? f16_to_f32(bits) : bf16_to_f32(bits);
}
inline mica_status truncate_input(Run& r, uint32_t k) {
  const mica_dtype dtype = r.call.out.dtype;
  if (dtype != MICA_F16 && dtype != MICA_BF16) return r.reference();
  HostTensor& x = r.floats(k);
  Run::for_rows(x, [&](int64_t i1, int64_t i2, int64_t i3) {
    for (int64_t i = 0; i < x.dim[0]; ++i)
      x.set(static_cast<double>(truncated(dtype, x.at(i, i1, i2, i3))), i, i1, i2, i3);
  });
  return r.reference();
}
inline mica_status kv_append_truncates(Run& r) { return truncate_input(r, 1); }
inline mica_status copy_truncates(Run& r) { return truncate_input(r, 0); }

inline mica_status wrong_slot(Run& r, uint32_t k) {  // of the last token
  int32_t* slots = r.ints(k);
  const int64_t n = r.in[k].dim[0];
  if (n > 0 && slots[n - 1] >= 0) slots[n - 1] ^= 1;
  return r.reference();
}
inline mica_status kv_append_wrong_slot(Run& r) { return wrong_slot(r, 2); }
inline mica_status set_rows_wrong_row(Run& r) { return wrong_slot(r, 2); }

inline mica_status extent_ignored_state(Run& r) { return extent_ignored(r); }
inline mica_status extent_ignored_output(Run& r) { return extent_ignored(r); }

// --- rope, norms, softmax -----------------------------------------------------------------------

inline mica_status rope_yarn_twice(Run& r) {
  auto& args = r.args<mica_rope_args>();
  args.magnitude *= args.magnitude;
  return r.reference();
}
inline mica_status rope_wrong_pairs(Run& r) {
  r.args<mica_rope_args>().pairing ^= 1;
  return r.reference();
}
// Positions that F32 rounds to 16 bits of a turn.
inline mica_status rope_angles_of_floats(Run& r) {
  int32_t* positions = r.ints(0);
  for (int64_t t = 0; t < r.in[0].dim[0]; ++t)
    if (std::abs(positions[t]) >= 1 << 17) positions[t] &= ~1;
  return r.reference();
}
inline mica_status rms_norm_no_eps(Run& r) {
  r.args<mica_rms_norm_args>().eps = 0;
  return r.reference();
}
inline mica_status rms_norm_weight_shifted(Run& r) {
  if (!r.in[1].present()) return r.reference();
  HostTensor& w = r.floats(1);
  const double first = w.at(0);
  for (int64_t i = 0; i + 1 < w.dim[0]; ++i) w.set(w.at(i + 1), i);
  w.set(first, w.dim[0] - 1);
  return r.reference();
}
inline mica_status softmax_without_max(Run& r) {
  const mica_status status = r.reference();
  if (r.in[1].present()) return status;
  const HostTensor x = r.in[0];
  const HostTensor& y = r.call.out;
  const float scale = r.call.arg<mica_softmax_args>().scale;
  Run::for_rows(y, [&](int64_t i1, int64_t i2, int64_t i3) {
    float sum = 0;
    const auto weight = [&](int64_t i) {
      return std::exp(scale * static_cast<float>(x.at(i, i1, i2, i3)));
    };
    for (int64_t i = 0; i < x.dim[0]; ++i) sum += weight(i);
    for (int64_t i = 0; i < x.dim[0]; ++i)
      y.set(static_cast<double>(weight(i) / sum), i, i1, i2, i3);
  });
  return status;
}

// --- choosing -----------------------------------------------------------------------------------

inline mica_status argmax_last_of_ties(Run& r) {
  const mica_status status = r.reference();
  const HostTensor& x = r.in[0];
  auto* y = static_cast<char*>(r.call.out.data);
  Run::for_rows(x, [&](int64_t i1, int64_t i2, int64_t i3) {
    const int64_t at = (i3 * x.dim[2] + i2) * x.dim[1] + i1;
    int32_t best = 0;
    std::memcpy(&best, y + at * 4, 4);
    const double value = x.at(best, i1, i2, i3);
    for (int32_t i = best; i < x.dim[0]; ++i)
      if (x.at(i, i1, i2, i3) == value) best = i;
    std::memcpy(y + at * 4, &best, 4);
  });
  return status;
}
inline mica_status sample_position_ignored(Run& r) {
  int32_t* keys = r.ints(2);
  for (int64_t i = 0; i < r.in[2].dim[1]; ++i) keys[i * 4 + 3] = 0;
  return r.reference();
}
inline mica_status gelu_is_erf(Run& r) { return find_op(MICA_OP_gelu_erf)->reference(r.call); }
inline mica_status add_repeats_first_row(Run& r) {
  r.in[1].stride[1] = 0;
  return r.reference();
}

// --- memory -------------------------------------------------------------------------------------

inline mica_status overrun(Run& r) {
  const mica_status status = r.reference();
  const mica_b_value& v = r.partition.values[r.node.output];
  const float one = 1;
  std::memcpy(static_cast<char*>(r.call.out.data) + v.bytes, &one, sizeof one);
  return status;
}
inline mica_status input_scribbled(Run& r) {
  const mica_status status = r.reference();
  if (r.in[0].elements() > 0) static_cast<char*>(r.in[0].data)[1] ^= 1;
  return status;
}
inline mica_status nondeterministic(Run& r) {
  static unsigned n_calls = 0;
  const mica_status status = r.reference();
  if (r.call.out.elements() > 0 && ++n_calls % 2 == 1) static_cast<char*>(r.call.out.data)[0] ^= 1;
  return status;
}
inline mica_status nothing_written(Run&) { return MICA_OK; }
inline mica_status crash(Run&) {
  raise(SIGSEGV);
  return MICA_OK;
}

// Beside the ops, in the table of faulty_ref.cpp.
inline mica_status weight_unpack_bit(Run& r) { return r.reference(); }

struct Mistake {
  const char* name;
  uint32_t op;
  mica_status (*run)(Run&);
};
constexpr Mistake kMistakes[] = {
#define MICA_MISTAKE(op, name, ...) {#name, MICA_OP_##op, name},
#define MICA_NO_MISTAKE MICA_MISTAKE
#include "tests/faults/mistakes.def"
#undef MICA_MISTAKE
#undef MICA_NO_MISTAKE
};

// The mistake that MICA_FAULT names; run.sh never names one that is not in mistakes.def.
inline const Mistake* chosen() {
  const char* name = std::getenv("MICA_FAULT");
  for (const Mistake& m : kMistakes)
    if (name != nullptr && std::strcmp(m.name, name) == 0) return &m;
  return nullptr;
}

inline mica_status run(const mica_b_partition& partition, const mica_b_node& node, const OpDef& op,
                       const RefCall& call) {
  static const Mistake* const mistake = chosen();
  if (mistake == nullptr || mistake->op != op.id) return op.reference(call);
  Run r(partition, node, op, call);
  return mistake->run(r);
}

}  // namespace mica::faults
