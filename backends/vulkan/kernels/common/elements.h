// What host files of kernels share: shapes, strides in elements, checks of operands, grids.
#pragma once
#include "backends/vulkan/kernels/common/launch.h"

namespace mica::vulkan {

inline uint32_t elem_bytes(mica_dtype dtype) {
  return dtype == MICA_F32 || dtype == MICA_I32 ? 4 : dtype == MICA_I64 ? 8 : 2;
}
inline int64_t rows_of(const Tensor& t) { return t.dim[1] * t.dim[2] * t.dim[3]; }
inline int64_t elements_of(const Tensor& t) { return t.dim[0] * rows_of(t); }
// All elements (of plain types) follow each other.
inline bool packed(const Tensor& t) {
  int64_t stride = elem_bytes(t.dtype);
  for (int i = 0; i < 4; ++i) {
    if (t.dim[i] != 1 && t.stride[i] != stride) return false;
    stride *= t.dim[i];
  }
  return true;
}
inline bool same_shape(const Tensor& a, const Tensor& b) {
  for (int i = 0; i < 4; ++i)
    if (a.dim[i] != b.dim[i]) return false;
  return true;
}
// Elements of one index of the slowest dimension, which an extent may shorten.
inline int64_t inner_elements(const Tensor& t) {
  int64_t n = 1;
  for (uint32_t i = 0; i + 1 < t.rank; ++i) n *= t.dim[i];
  return n;
}
// Strides in elements; 0 where a dimension of 1 is repeated.
inline void element_strides(const Tensor& t, uint32_t out[4]) {
  for (int i = 0; i < 4; ++i)
    out[i] = t.dim[i] == 1 ? 0 : static_cast<uint32_t>(t.stride[i] / elem_bytes(t.dtype));
}
// Shaders count elements, and strides in elements, in 32 bits.
inline bool fits_32(const Tensor& t) {
  if (t.absent()) return true;
  int64_t last = 1;
  for (int i = 0; i < 4; ++i) last += (t.dim[i] - 1) * (t.stride[i] / elem_bytes(t.dtype));
  return last <= UINT32_MAX && elements_of(t) <= UINT32_MAX;
}
inline const char* sized_operand(const Tensor& t) {
  return fits_32(t) ? nullptr : "a tensor has more than 2^32 elements";
}
inline const char* float_operand(const Tensor& t) {
  if (!t.absent() && !is_float(t.dtype)) return "an input is not f32, f16 or bf16";
  return sized_operand(t);
}
inline const char* float_inputs(const Call& call) {
  for (uint32_t i = 0; i < call.n_in; ++i)
    if (const char* no = float_operand(call.in[i]); no != nullptr) return no;
  return nullptr;
}
inline uint32_t numerics_f32(const Call&) { return MICA_NUM_F32; }
inline uint32_t numerics_exact(const Call&) { return MICA_NUM_EXACT; }

// Workgroups for n items, `each` a group; what exceeds the limit is left to loops in the shader.
inline uint32_t groups_for(const DeviceCaps& caps, int64_t n, int64_t each) {
  const int64_t groups = (n + each - 1) / each;
  const int64_t limit = caps.max_groups[0] < 65535 ? caps.max_groups[0] : 65535;
  return static_cast<uint32_t>(groups < limit ? groups : limit);
}

}  // namespace mica::vulkan
