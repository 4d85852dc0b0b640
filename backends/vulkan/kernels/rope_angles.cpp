// rope_angles: frequencies in double on the host, as revolutions in 64-bit fixed point, kept on the
// device; positions and factors are read there.
#include "backends/vulkan/kernels/common/elements.h"
#include "backends/vulkan/kernels/rope_angle.h"

MICA_VULKAN_SHADER(rope_angles)

namespace mica::vulkan {
namespace {

enum Input : uint32_t { kPositions, kFactors };

constexpr uint32_t kThreads = 128;

struct Push {
  uint64_t y, positions, revolutions, factors, live;
  uint32_t n_rows, n_pairs;
};
static_assert(sizeof(Push) <= kMaxPushBytes);

bool divides(const Call& call) { return call.n_in > kFactors && !call.in[kFactors].absent(); }

const char* supports(const Call& call) {
  const auto& a = call.arg<mica_rope_angles_args>();
  if (a.n_rot / 2 > kRopePairs) return "more than 8192 elements of a head are rotated";
  if (divides(call) && !revolves_once(a))
    return "with frequency factors, a pair turns more than once";
  return sized_operand(call.out);
}

mica_status record(const Call& call, Recorder& recorder) {
  const auto& a = call.arg<mica_rope_angles_args>();
  uint64_t table[kRopePairs];
  fixed_revolutions(a, table);
  Push push{};
  push.n_pairs = a.n_rot / 2;
  MICA_TRY(constants(recorder, table, push.n_pairs * 8, push.revolutions));
  push.y = call.out.address;
  push.positions = call.in[kPositions].address;
  push.factors = divides(call) ? call.in[kFactors].address : 0;
  push.live = call.out.live;
  push.n_rows = static_cast<uint32_t>(call.out.dim[1]);
  const int64_t items = int64_t{push.n_pairs} * push.n_rows;
  return launch(recorder, shader_rope_angles, {kThreads, divides(call) ? 1u : 0u}, push,
                {groups_for(caps_of(call), items, kThreads), 1, 1});
}

constexpr Kernel kRows[] = {{"rope_angles", "", supports, numerics_f32, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(rope_angles, kRows, MICA_KNOWS(rope_angles, beta_slow))
