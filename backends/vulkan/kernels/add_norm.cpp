// add_norm: core/fusions/add_norm.cpp's region, of F32, in one dispatch.
#include "backends/vulkan/kernels/common/elements.h"
#include "backends/vulkan/kernels/common/weight.h"
#include "ops/norm_args.h"

MICA_VULKAN_SHADER(add_norm)

namespace mica::vulkan {
namespace {

enum Member { kAdd, kNorm };

struct Push {
  uint64_t a, b, w, sum, y;
  uint64_t s_a, s_b;
  uint64_t live;
  uint32_t n, n_rows;
  float eps;
};
static_assert(sizeof(Push) <= kMaxPushBytes);

const char* supports(const Call& c) {
  const Call &add = c.members[kAdd], &norm = c.members[kNorm];
  for (const Tensor* t : {&add.in[0], &add.in[1], &norm.in[1], &norm.out}) {
    if (t->dtype != MICA_F32) return "a tensor is not F32";
    if (const char* why = sized_operand(*t); why != nullptr) return why;
    if (t->rank > 2 || t->dim[2] != 1 || t->dim[3] != 1) return "x has several slices";
    if (t->stride[0] != 4) return "the elements of a row are not adjacent";
  }
  return nullptr;
}

mica_status record(const Call& c, Recorder& recorder) {
  const Call &add = c.members[kAdd], &norm = c.members[kNorm];
  const Tensor &a = add.in[0], &b = add.in[1];
  Push push{};
  push.a = a.address;
  push.b = b.address;
  push.w = norm.in[1].address;
  push.sum = add.out.address;
  push.y = norm.out.address;
  push.s_a = static_cast<uint64_t>(a.stride[1]);
  push.s_b = static_cast<uint64_t>(b.stride[1]);
  push.live = norm.out.rank == 2 ? norm.out.live : 0;
  push.n = static_cast<uint32_t>(a.dim[0]);
  push.n_rows = static_cast<uint32_t>(a.dim[1]);
  push.eps = norm.arg<mica_rms_norm_args>().eps;
  const bool wide = rows_of_fours(a) && rows_of_fours(b) && rows_of_fours(norm.in[1]) &&
                    (push.sum | push.y) % 16 == 0;
  return launch(recorder, shader_add_norm, {push.n >= 1024 ? 256u : 64u, 1, 1, wide ? 1u : 0u},
                push, {groups_for(caps_of(add), push.n_rows, 1), 1, 1});
}

constexpr Kernel kRows[] = {{"add_norm", "", supports, numerics_f32, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(add_norm, kRows, MICA_KNOWS(rms_norm, eps))
