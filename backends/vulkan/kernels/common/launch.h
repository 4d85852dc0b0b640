// Small helpers of kernels' host sides: one dispatch in one call, grids beyond a dimension's limit.
#pragma once
#include <cstring>
#include <type_traits>

#include "backends/vulkan/kernel.h"

namespace mica::vulkan {

constexpr uint32_t kFoldGroups = 65535;  // of one dimension, on every device

struct Groups {
  uint32_t x, y, z;
};

// n groups over x and y; shaders get their index from folded_group() and leave when it is too high.
inline Groups folded(uint64_t n) {
  const uint64_t y = (n + kFoldGroups - 1) / kFoldGroups;
  if (y <= 1) return {n > 0 ? static_cast<uint32_t>(n) : 1, 1, 1};
  return {kFoldGroups, static_cast<uint32_t>(y), 1};
}
inline Groups folded_threads(uint64_t n, uint32_t size) { return folded((n + size - 1) / size); }

// The one place where a Dispatch is filled.
[[nodiscard]] inline mica_status launch_words(Recorder& recorder, const Shader& shader,
                                              const void* specs, uint32_t n_specs, const void* push,
                                              uint32_t push_bytes, Groups groups,
                                              uint32_t subgroup) {
  Dispatch d{};
  d.shader = &shader;
  d.subgroup_size = subgroup;
  std::memcpy(d.spec, specs, n_specs * sizeof(uint32_t));
  d.n_specs = n_specs;
  d.push = push;
  d.push_bytes = push_bytes;
  d.groups[0] = groups.x;
  d.groups[1] = groups.y;
  d.groups[2] = groups.z;
  return dispatch(recorder, d);
}

// One dispatch. `specs`, a struct of words or a list in braces, begins with the workgroup's size;
// its words are the specialization constants 0, 1, 2, ... `subgroup`: its required size, or 0.
template <class Specs, class Push>
[[nodiscard]] mica_status launch(Recorder& recorder, const Shader& shader, const Specs& specs,
                                 const Push& push, Groups groups, uint32_t subgroup = 0) {
  static_assert(sizeof(Push) <= kMaxPushBytes && sizeof(Push) % 4 == 0);
  static_assert(std::is_trivially_copyable_v<Specs> && alignof(Specs) == alignof(uint32_t));
  static_assert(sizeof(Specs) <= kMaxSpecs * sizeof(uint32_t));
  return launch_words(recorder, shader, &specs, sizeof specs / sizeof(uint32_t), &push, sizeof push,
                      groups, subgroup);
}
template <class Push, uint32_t n_specs>
[[nodiscard]] mica_status launch(Recorder& recorder, const Shader& shader,
                                 const uint32_t (&specs)[n_specs], const Push& push, Groups groups,
                                 uint32_t subgroup = 0) {
  static_assert(sizeof(Push) <= kMaxPushBytes && sizeof(Push) % 4 == 0);
  static_assert(n_specs <= kMaxSpecs);
  return launch_words(recorder, shader, specs, n_specs, &push, sizeof push, groups, subgroup);
}

inline bool is_float(mica_dtype d) { return d == MICA_F32 || d == MICA_F16 || d == MICA_BF16; }
inline bool is_plain(mica_dtype d) { return is_float(d) || d == MICA_I32 || d == MICA_I64; }

}  // namespace mica::vulkan
