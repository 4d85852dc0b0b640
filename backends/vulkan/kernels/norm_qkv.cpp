// norm_qkv: core/fusions/norm_qkv.cpp's region, with a cache of plain elements: of few columns a
// dispatch for each type of weights, all of one wave.
#include "backends/gpu/layouts.h"
#include "backends/norm_qkv.h"
#include "backends/vulkan/kernels/matmul/common/matmul_fused.h"
#include "backends/vulkan/kv.h"
#include "ops/norm_args.h"
#include "ops/rope.h"
#include "ops/rope_args.h"

namespace mica::vulkan {
namespace {

using Members = QkvMembers<Call>;

const char* rope_supports(const Call& rope) {
  const auto& args = rope.arg<mica_rope_args>();
  if (rope.in[0].dtype != MICA_F32) return "RoPE is not of F32";
  if (args.offset != 0) return "RoPE does not begin at a head's first element";
  return rope.in[0].dim[0] % 8 != 0 ? "heads are not multiples of 8" : nullptr;
}

const char* append_supports(const Call& append) {
  const Tensor &state = append.in[0], &rows = append.in[1];
  KvPage page;
  if (state.layout != kLayoutKvPage) return "the state is not of a cache";
  if (!kv_page(state.dtype, state.dim[0], state.dim[1], page) || page.elem_bytes == 0)
    return "the cache is not of F32, F16 or BF16";
  if (rows.dtype != MICA_F32) return "what is appended is not F32";
  if (rows.dim[0] % 8 != 0) return "heads are not multiples of 8";
  return state.dim[2] > INT32_MAX ? "the cache is too large" : nullptr;
}

const char* supports(const Call& c) {
  const Members m(c);
  if (const char* why = fused_norm_supports(*m.norm); why != nullptr) return why;
  if (const char* why = m.heads_support(); why != nullptr) return why;
  if (const char* why = fused_matmuls_support(m.matmul, kProjections); why != nullptr) return why;
  for (int i = kQ; i <= kV; ++i) {
    if (m.matmul[i]->in[0].dim[1] % 2 != 0) return "a projection has an odd number of rows";
    if (m.bias[i] == nullptr) continue;
    if (m.bias[i]->in[1].dtype != MICA_F32) return "a bias is not F32";
  }
  for (int i = kK; i <= kV; ++i)
    if (const char* why = append_supports(*m.append[i]); why != nullptr) return why;
  for (const Call* rope : m.rope)
    if (const char* why = rope != nullptr ? rope_supports(*rope) : nullptr; why != nullptr)
      return why;
  return m.q().dtype == MICA_F32 ? nullptr : "Q is not F32";
}

uint32_t numerics(const Call& c) { return fused_numerics(Members(c).matmul, kProjections); }

void set_rope(Fused& f, int i, const Call& rope) {
  const auto& args = rope.arg<mica_rope_args>();
  f.ending.n_pairs[i] = args.n_rot / 2;
  f.ending.half_split[i] = args.pairing == MICA_ROPE_HALF_SPLIT ? 1 : 0;
  f.params.angles[i] = rope.in[1].address;
  f.params.magnitude[i] = args.magnitude;
}

Fused fused_of(const Members& m) {
  Fused f;
  f.streams = fused_streams(m.matmul, kProjections);
  f.ending.ending = kQkv;
  f.ending.cell_k = static_cast<uint32_t>(m.append[kK]->in[0].dtype);
  f.ending.cell_v = static_cast<uint32_t>(m.append[kV]->in[0].dtype);
  f.params.slots = m.append[kK]->in[2].address;
  set_fused_norm(f, *m.norm);
  for (int i = kQ; i <= kV; ++i) {
    const uint64_t y = i == kQ ? m.q().address : m.append[i]->in[0].address;
    set_fused_weight(f, static_cast<uint32_t>(i), *m.matmul[i], y);
    f.ending.head_dim[i] = static_cast<uint32_t>(m.head_dim(i));
    if (m.bias[i] != nullptr) f.params.bias[i] = m.bias[i]->in[1].address;
    if (i != kQ) f.params.n_cells[i - 1] = static_cast<uint32_t>(m.append[i]->in[0].dim[2]);
    if (i != kV && m.rope[i] != nullptr) set_rope(f, i, *m.rope[i]);
  }
  return f;
}

uint64_t workspace(const Call& c) {
  const Members m(c);
  return fused_workspace(caps_of(*m.norm), fused_of(m));
}

mica_status record(const Call& c, Recorder& recorder) {
  const Members m(c);
  return record_fused(caps_of(*m.norm), fused_of(m), c.workspace, recorder);
}

constexpr Kernel kRows[] = {{"norm_qkv", "", supports, numerics, workspace, record,
                             gpu::takes_both<kLayoutPlanes, kLayoutKvPage>}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(norm_qkv, kRows, MICA_KNOWS(rms_norm, eps), MICA_KNOWS(rope, magnitude))
