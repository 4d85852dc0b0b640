// matmul's arguments, as its shaders take them (kernels/matmul/common/matmul.glsl), and its grids.
#pragma once
#include "backends/vulkan/kernels/common/launch.h"
#include "backends/vulkan/kernels/common/weight.h"

namespace mica::vulkan {

struct MatmulPush {
  uint64_t w[kPlanes];
  uint64_t x, s_x[3];
  uint64_t y, live;
  uint32_t n, k, m;
  uint32_t w2, x2, r2, r3;
  uint32_t n_blocks, n_slices;
  uint32_t live_dim;
};

// What every variant relies on; nullptr: fine.
const char* matmul_operands(const Call& c);
// All but n_blocks.
MatmulPush matmul_push(const Call& c);

// Specialization constants of matmul_vec.comp and matmul_vec_float.comp, in the order of their
// numbers; each reads those that it declares.
struct MatmulVecSpecs {
  uint32_t threads, threads_y = 1, threads_z = 1;
  uint32_t team = 0, rows = 0, columns = 0;
  uint32_t chunk = 0;  // of packed weights
  uint32_t x_dtype = 0, x_wide = 0;
  uint32_t reduce = 0, subgroup = 0;
  uint32_t w_dtype = 0, w_wide = 0;  // of plain rows
};

// How a workgroup of matmul_vec.comp or matmul_vec_float.comp is cut.
struct MatmulTeams {
  uint32_t threads, team, rows, columns;
  uint32_t subgroup, required_subgroup;
  uint32_t reduce;
  uint32_t n_blocks;  // workgroups of a slice
  uint32_t n_rows() const { return threads / team * rows; }
  // What they say of the constants.
  MatmulVecSpecs specs(const Tensor& x, bool x_wide) const {
    return {.threads = threads,
            .team = team,
            .rows = rows,
            .columns = columns,
            .x_dtype = static_cast<uint32_t>(x.dtype),
            .x_wide = x_wide ? 1u : 0u,
            .reduce = reduce,
            .subgroup = subgroup};
  }
};
// `n_items`: what the lanes of a team share of a row.
MatmulTeams matmul_teams(const DeviceCaps& caps, const Call& c, uint64_t n_items);
// Units of activations, of `unit_bytes` each, that are in shared memory at a time; `sums` of an
// invocation.
uint32_t matmul_chunk(const DeviceCaps& caps, const MatmulTeams& t, uint32_t unit_bytes,
                      uint32_t sums, uint32_t n_units);

// How a workgroup of matmul_tile.comp is cut: `across` and `down` are outputs of an invocation.
struct MatmulTile {
  uint32_t n, m, across, down, threads;
};
MatmulTile matmul_tile(const DeviceCaps& caps, const Call& c);

// The workspace of matmul_tile.comp: what matmul_prepare.comp writes.
struct MatmulPrepared {
  uint64_t sums;  // offset
  uint64_t bytes;
};
MatmulPrepared matmul_prepared(const Call& c, uint32_t m_tile);

// A dispatch of workgroups with the size and constants given.
template <uint32_t n_specs>
[[nodiscard]] mica_status record_matmul(Recorder& recorder, const Shader& shader, uint32_t subgroup,
                                        const uint32_t (&specs)[n_specs], const MatmulPush& push,
                                        uint64_t n_groups) {
  return launch(recorder, shader, specs, push, folded(n_groups), subgroup);
}

}  // namespace mica::vulkan
