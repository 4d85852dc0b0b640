// argmax: the lowest index of a row's largest element. Long rows are cut into pieces.
#include "backends/vulkan/kernels/common/launch.h"

MICA_VULKAN_SHADER(argmax)

namespace mica::vulkan {
namespace {

constexpr uint32_t kPiece = 4096;

struct Push {
  uint64_t x, y, live;
  uint64_t s_x[3];
  uint32_t dim[4];
  uint32_t rank;
  uint32_t piece, n_pieces;
  uint32_t of_ranks, to_ranks;
};

const char* supports(const Call& c) {
  for (int i = 0; i < 4; ++i)
    if (c.in[0].dim[i] > INT32_MAX) return "a dimension of 2^31 or more";
  return nullptr;
}

uint32_t numerics(const Call&) { return MICA_NUM_EXACT; }

uint64_t rows_of(const Tensor& x) {
  return static_cast<uint64_t>(x.dim[1]) * static_cast<uint64_t>(x.dim[2]) *
         static_cast<uint64_t>(x.dim[3]);
}
uint64_t pieces_of(const Tensor& x) {
  return (static_cast<uint64_t>(x.dim[0]) + kPiece - 1) / kPiece;
}

uint64_t workspace(const Call& c) {
  const Tensor& x = c.in[0];
  return pieces_of(x) > 1 ? rows_of(x) * pieces_of(x) * 8 : 0;
}

mica_status record(const Call& c, Recorder& recorder) {
  const Tensor& x = c.in[0];
  Push push{};
  push.x = x.address;
  push.y = c.out.address;
  push.live = x.live;
  for (int i = 0; i < 4; ++i) push.dim[i] = static_cast<uint32_t>(x.dim[i]);
  for (int i = 0; i < 3; ++i) push.s_x[i] = static_cast<uint64_t>(x.stride[i + 1]);
  push.rank = x.rank;
  push.piece = kPiece;
  push.n_pieces = static_cast<uint32_t>(pieces_of(x));
  const uint32_t threads = x.dim[0] <= 256 ? 32 : 256;
  if (push.n_pieces == 1)
    return launch(recorder, shader_argmax, {threads, 1, 1}, push, folded(rows_of(x)));
  push.y = c.workspace;
  push.to_ranks = 1;
  MICA_TRY(
      launch(recorder, shader_argmax, {threads, 1, 1}, push, folded(rows_of(x) * push.n_pieces)));
  barrier(recorder);
  push.x = c.workspace;
  push.y = c.out.address;
  push.of_ranks = 1;
  push.to_ranks = 0;
  return launch(recorder, shader_argmax, {32, 1, 1}, push, folded(rows_of(x)));
}

constexpr Kernel kKernels[] = {{"argmax", "", supports, numerics, workspace, record}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(argmax, kKernels)
