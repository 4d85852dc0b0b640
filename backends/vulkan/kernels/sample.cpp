// sample: a token of each row of logits (the rule: ops/sample.h). Many workgroups look a row over,
// one chooses.
#include "backends/vulkan/kernels/common/launch.h"

MICA_VULKAN_SHADER(sample_look)
MICA_VULKAN_SHADER(sample_choose)

namespace mica::vulkan {
namespace {

enum Input : uint32_t { kLogits, kParams, kKeys };
constexpr uint32_t kThreads = 256;
constexpr uint32_t kPiece = 4096;
constexpr uint64_t kListed = 2048;              // as in select.glsl
constexpr uint64_t kPieceBytes = 32 + 256 * 8;  // as in sample.comp

struct Push {
  uint64_t logits, params, keys, y, live, workspace;
  uint64_t s_row, s_workspace;
  uint32_t n_vocab, n_rows;
  uint32_t piece, n_pieces;
};

uint64_t pieces_of(const Call& c) {
  return (static_cast<uint64_t>(c.in[kLogits].dim[0]) + kPiece - 1) / kPiece;
}

// What is known of the pieces, and room for all tokens of a row in order, which hot and unlimited
// sampling may need.
uint64_t row_bytes(const Call& c) {
  const auto n = static_cast<uint64_t>(c.in[kLogits].dim[0]);
  uint64_t room = 1;
  while (room < n) room *= 2;
  return pieces_of(c) * kPieceBytes + (n > kListed ? room * 8 : 0);
}

const char* supports(const Call& c) {
  if (c.in[kLogits].dim[1] > kFoldGroups) return "more than 65535 rows";
  if (pieces_of(c) > kFoldGroups) return "more than 2^28 tokens";
  return nullptr;
}

uint32_t numerics(const Call&) { return MICA_NUM_F32; }

uint64_t workspace(const Call& c) {
  return row_bytes(c) * static_cast<uint64_t>(c.in[kLogits].dim[1]);
}

mica_status record(const Call& c, Recorder& recorder) {
  const Tensor& logits = c.in[kLogits];
  const Push push = {logits.address,
                     c.in[kParams].address,
                     c.in[kKeys].address,
                     c.out.address,
                     logits.live,
                     c.workspace,
                     static_cast<uint64_t>(logits.stride[1]),
                     row_bytes(c),
                     static_cast<uint32_t>(logits.dim[0]),
                     static_cast<uint32_t>(logits.dim[1]),
                     kPiece,
                     static_cast<uint32_t>(pieces_of(c))};
  MICA_TRY(launch(recorder, shader_sample_look, {kThreads, 1, 1}, push,
                  Groups{push.n_pieces, push.n_rows, 1}));
  barrier(recorder);
  return launch(recorder, shader_sample_choose, {kThreads, 1, 1}, push, Groups{push.n_rows, 1, 1});
}

constexpr Kernel kKernels[] = {{"sample", "", supports, numerics, workspace, record}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(sample, kKernels)
