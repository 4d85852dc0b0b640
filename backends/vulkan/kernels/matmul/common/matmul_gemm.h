// matmul by matrix units: activations and weights are rounded to rows of F16 in the workspace
// (weights that are F16 already are taken where they lie), then multiplied.
#pragma once
#include "backends/vulkan/kernels/matmul/common/matmul.h"

namespace mica::vulkan {

struct MatmulGemm {
  const Shader* shader;  // nullptr: `why` not
  const char* why;
  uint32_t n, m;          // of a tile
  uint32_t across, down;  // subgroups along n and m
  uint32_t threads, subgroup;
  uint32_t m_pad, k_pad;  // of rounded rows
  uint32_t chunk;         // rows of a packed weight that are rounded at a time; else all
  uint64_t halves_bytes;  // of them
  uint64_t workspace_bytes;
};
MatmulGemm matmul_gemm(const Call& c);
mica_status record_matmul_gemm(const Call& c, const MatmulGemm& gemm, Recorder& recorder);

// matmul_rows.comp for all rows of x: `push` as it has them, but for n_blocks.
mica_status record_matmul_rows(const DeviceCaps& caps, mica_dtype x, bool x_is_wide, bool norm,
                               MatmulPush push, Recorder& recorder);

}  // namespace mica::vulkan
