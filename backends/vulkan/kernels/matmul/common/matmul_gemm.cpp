// The choice of matmul_gemm.comp's path and tile, and its dispatches.
#include "backends/vulkan/kernels/matmul/common/matmul_gemm.h"

#include <algorithm>

#include "backends/vulkan/kernels/common/paths.h"

MICA_VULKAN_SHADER(matmul_rows)
MICA_VULKAN_SHADER(matmul_gemm_plain)
MICA_VULKAN_SHADER(matmul_gemm_coop)
MICA_VULKAN_WEIGHT_SHADERS(matmul_halves)

namespace mica::vulkan {
namespace {

constexpr uint64_t kMostHalvesBytes = 128u << 20;  // a chunk of rounded weights
constexpr uint32_t kSharedBytes = 49152;           // of the largest tile
constexpr uint32_t kFewestColumns = 128;           // fewer do not pay for rounding the weights

struct Tile {
  uint32_t n, m, across, down, threads;
  double speed;  // of an output, relative
};
constexpr Tile kCoop[] = {
    {128, 128, 4, 2, 256, 1.0}, {128, 64, 4, 2, 256, 0.8}, {64, 64, 2, 2, 128, 0.6}};
constexpr Tile kPlain[] = {{32, 32, 2, 2, 4, 1.0}};
constexpr uint32_t kStep = 32;  // elements of K

uint64_t div_up(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

// The tile with the shortest run of workgroups one after another on a core.
template <size_t size>
Tile best_tile(const Tile (&list)[size], uint64_t n, uint64_t m, uint64_t n_slices,
               uint64_t cores) {
  Tile best = list[0];
  double best_time = 0;
  for (const Tile& t : list) {
    const uint64_t groups = div_up(n, t.n) * div_up(m, t.m) * n_slices;
    const double time = static_cast<double>(div_up(groups, cores) * t.n * t.m) / t.speed;
    if (best_time == 0 || time < best_time) {
      best = t;
      best_time = time;
    }
  }
  return best;
}

bool is_packed(const Call& c) { return c.in[0].layout == kLayoutPlanes; }

const char* unfit(const Call& c, bool is_plain) {
  const Tensor& w = c.in[0];
  if (!is_plain && c.in[1].dim[1] < kFewestColumns) return "x has few rows";
  if (c.in[1].dim[1] * w.dim[0] > INT32_MAX) return "a slice of x has more than 2^31 elements";
  if (is_packed(c)) return w.dim[2] * w.dim[3] == 1 ? nullptr : "w is several matrices";
  if (w.dtype != MICA_F16) return "w is neither a packed weight nor F16";
  if (!rows_of_eights(w) || w.dim[0] % kStep != 0) return "w has rows that are no whole steps";
  if (static_cast<uint64_t>(w.stride[1]) * static_cast<uint64_t>(w.dim[1]) > UINT32_MAX)
    return "w has 4 GiB or more";
  return nullptr;
}

}  // namespace

mica_status record_matmul_rows(const DeviceCaps& caps, mica_dtype x, bool x_is_wide, bool norm,
                               MatmulPush push, Recorder& recorder) {
  constexpr uint32_t kMostThreads = 1024;
  const auto threads = static_cast<uint32_t>(div_up(push.k, 8 * 64) * 64);
  push.n_blocks = push.m;
  return record_matmul(recorder, shader_matmul_rows, 0,
                       {std::min({threads, caps.max_invocations, kMostThreads}), 1, 1,
                        static_cast<uint32_t>(x), x_is_wide ? 1u : 0u, norm ? 1u : 0u},
                       push, uint64_t{push.n_blocks} * push.n_slices);
}

MatmulGemm matmul_gemm(const Call& c) {
  const DeviceCaps& caps = caps_of(c);
  MatmulGemm g{};
  const bool plain = caps.plain_fragments;
  const bool coop = has_matrix_units(caps, kSharedBytes) && shader_matmul_gemm_coop.n_words != 0;
  g.why = plain || coop ? unfit(c, plain) : "the device has no matrix units";
  if (g.why == nullptr) g.why = matmul_operands(c);
  if (g.why != nullptr) return g;

  const auto n = static_cast<uint64_t>(c.in[0].dim[1]);
  const auto m = static_cast<uint64_t>(c.in[1].dim[1]);
  const auto n_slices = static_cast<uint64_t>(c.in[1].dim[2] * c.in[1].dim[3]);
  const uint64_t cores = caps.n_cores != 0 ? caps.n_cores : 32;
  const Tile t =
      plain ? best_tile(kPlain, n, m, n_slices, cores) : best_tile(kCoop, n, m, n_slices, cores);
  g.shader = plain ? &shader_matmul_gemm_plain : &shader_matmul_gemm_coop;
  g.n = t.n;
  g.m = t.m;
  g.across = t.across;
  g.down = t.down;
  g.threads = t.threads;
  g.subgroup = plain || caps.min_subgroup_size == caps.max_subgroup_size ? 0 : 32;
  g.m_pad = static_cast<uint32_t>(div_up(m, t.m) * t.m);
  g.k_pad = static_cast<uint32_t>(div_up(static_cast<uint64_t>(c.in[0].dim[0]), kStep) * kStep);
  const uint64_t row_bytes = uint64_t{g.k_pad} * 2;
  g.chunk = static_cast<uint32_t>(n);
  if (is_packed(c)) {
    const uint64_t n_chunks = div_up(n * row_bytes, kMostHalvesBytes);
    const uint64_t chunk = div_up(div_up(n, n_chunks), t.n) * t.n;
    g.chunk = static_cast<uint32_t>(std::min(chunk, n));
    g.halves_bytes = chunk * row_bytes;
  }
  g.workspace_bytes = g.halves_bytes + n_slices * g.m_pad * (row_bytes + 4);
  return g;
}

namespace {

mica_status round_columns(const Call& c, const MatmulGemm& g, Recorder& recorder) {
  const Tensor& x = c.in[1];
  MatmulPush push = matmul_push(c);
  push.w[0] = c.workspace + g.halves_bytes;
  push.w[1] = g.m_pad;
  push.w[2] = g.k_pad;
  return record_matmul_rows(caps_of(c), x.dtype, rows_of_fours(x), false, push, recorder);
}

mica_status round_weights(const Call& c, const MatmulGemm& g, uint32_t first, uint32_t n,
                          Recorder& recorder) {
  constexpr uint32_t kThreads = 256;
  struct Push {
    uint64_t w[kPlanes];
    uint64_t y;
    uint32_t first, n, k, k_pad;
  } push{};
  plane_addresses(c.in[0], push.w);
  push.y = c.workspace;
  push.first = first;
  push.n = n;
  push.k = static_cast<uint32_t>(c.in[0].dim[0]);
  push.k_pad = g.k_pad;
  return launch(recorder, *weight_shader(kWeightShaders_matmul_halves, c.in[0].dtype),
                {kThreads, 1, 1}, push, folded_threads(uint64_t{n} * (g.k_pad / 8), kThreads));
}

mica_status multiply(const Call& c, const MatmulGemm& g, uint32_t first, uint32_t n,
                     Recorder& recorder) {
  MatmulPush push = matmul_push(c);
  push.x = c.workspace + g.halves_bytes;
  push.s_x[0] = g.k_pad;
  push.s_x[1] = first;
  push.s_x[2] = n;
  if (is_packed(c)) {
    push.w[0] = c.workspace;
    push.w[1] = uint64_t{g.k_pad} * 2;
    push.w[2] = push.w[3] = 0;
  }
  push.n_blocks = static_cast<uint32_t>(div_up(n, g.n) * div_up(push.m, g.m));
  return record_matmul(recorder, *g.shader, g.subgroup,
                       {g.threads, 1, 1, g.n, g.m, g.across, g.down}, push,
                       uint64_t{push.n_blocks} * push.n_slices);
}

}  // namespace

mica_status record_matmul_gemm(const Call& c, const MatmulGemm& g, Recorder& recorder) {
  MICA_TRY(round_columns(c, g, recorder));
  const auto all = static_cast<uint32_t>(c.in[0].dim[1]);
  for (uint32_t first = 0; first < all; first += g.chunk) {
    const uint32_t n = std::min(g.chunk, all - first);
    if (first > 0) barrier(recorder);
    if (is_packed(c)) MICA_TRY(round_weights(c, g, first, n, recorder));
    barrier(recorder);
    MICA_TRY(multiply(c, g, first, n, recorder));
  }
  return MICA_OK;
}

}  // namespace mica::vulkan
