// Packed weights as kernels' arguments: the module of a type, addresses of planes, wide loads.
#pragma once
#include "backends/vulkan/kernel.h"
#include "backends/vulkan/layout.h"

namespace mica::vulkan {

struct WeightShader {
  mica_dtype dtype;
  const Shader* shader;
};
template <size_t n>
const Shader* weight_shader(const WeightShader (&list)[n], mica_dtype dtype) {
  for (const WeightShader& s : list)
    if (s.dtype == dtype) return s.shader;
  return nullptr;
}

// Of a tensor in kLayoutPlanes.
inline void plane_addresses(const Tensor& w, uint64_t out[kPlanes]) {
  Planes planes;
  const int64_t n_rows = w.dim[1] * w.dim[2] * w.dim[3];
  if (!planes_of(w.dtype, w.dim[0], static_cast<uint64_t>(n_rows), planes)) return;
  for (uint32_t i = 0; i < kPlanes; ++i) out[i] = w.address + planes.offset[i];
}

// Whether all rows of a float tensor are whole runs of `bytes` at multiples of it.
inline bool rows_of(const Tensor& t, uint64_t bytes) {
  const uint64_t elem = t.dtype == MICA_F32 ? 4 : 2;
  uint64_t bits = t.address | static_cast<uint64_t>(t.dim[0]) * elem;
  for (uint32_t i = 1; i < 4; ++i)
    if (t.dim[i] > 1) bits |= static_cast<uint64_t>(t.stride[i]);
  return bits % bytes == 0;
}
// Four elements at a time can be read: load4's `wide`.
inline bool rows_of_fours(const Tensor& t) { return rows_of(t, t.dtype == MICA_F32 ? 16 : 8); }
inline bool rows_of_eights(const Tensor& t) {
  return rows_of(t, 16) && (t.dtype != MICA_F32 || t.dim[0] % 8 == 0);
}

}  // namespace mica::vulkan

// Declares modules <stem>_q4_0 … and a table kWeightShaders_<stem> for weight_shader().
#define MICA_VULKAN_WEIGHT_SHADERS(stem)                                      \
  MICA_VULKAN_SHADER(stem##_q4_0)                                             \
  MICA_VULKAN_SHADER(stem##_q4_1)                                             \
  MICA_VULKAN_SHADER(stem##_q5_0)                                             \
  MICA_VULKAN_SHADER(stem##_q5_1)                                             \
  MICA_VULKAN_SHADER(stem##_q8_0)                                             \
  MICA_VULKAN_SHADER(stem##_q4_k)                                             \
  MICA_VULKAN_SHADER(stem##_q5_k)                                             \
  MICA_VULKAN_SHADER(stem##_q6_k)                                             \
  namespace mica::vulkan {                                                    \
  static const WeightShader kWeightShaders_##stem[] = {                       \
      {MICA_Q4_0, &shader_##stem##_q4_0}, {MICA_Q4_1, &shader_##stem##_q4_1}, \
      {MICA_Q5_0, &shader_##stem##_q5_0}, {MICA_Q5_1, &shader_##stem##_q5_1}, \
      {MICA_Q8_0, &shader_##stem##_q8_0}, {MICA_Q4_K, &shader_##stem##_q4_k}, \
      {MICA_Q5_K, &shader_##stem##_q5_k}, {MICA_Q6_K, &shader_##stem##_q6_k}, \
  };                                                                          \
  }
