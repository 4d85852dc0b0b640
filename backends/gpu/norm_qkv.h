// The members of core/fusions/norm_qkv.cpp's region by their roles.
#pragma once
#include "backends/gpu/call.h"

namespace mica::gpu {

enum QkvRole { kQ, kK, kV, kProjections };

struct QkvMembers {
  const Call* norm;
  const Call* matmul[kProjections] = {};
  const Call* bias[kProjections] = {};    // nullptr: none
  const Call* rope[kProjections] = {};    // of Q and K, or nullptr
  const Call* append[kProjections] = {};  // of K and V

  explicit QkvMembers(const Call& c) : norm(c.members) {
    uint32_t at = 1;
    for (int i = kQ; i <= kV; ++i) {
      matmul[i] = &c.members[at++];
      if (c.members[at].op == MICA_OP_add) bias[i] = &c.members[at++];
    }
    if (c.members[at].op == MICA_OP_rope) {
      rope[kQ] = &c.members[at++];
      rope[kK] = &c.members[at++];
    }
    append[kK] = &c.members[at++];
    append[kV] = &c.members[at];
  }
  const Tensor& q() const {
    return rope[kQ] != nullptr   ? rope[kQ]->out
           : bias[kQ] != nullptr ? bias[kQ]->out
                                 : matmul[kQ]->out;
  }
  // Without RoPE it does not matter what a head of Q is.
  int64_t head_dim(int i) const {
    return i == kQ && rope[kQ] != nullptr ? rope[kQ]->in[0].dim[0]
                                          : append[i == kQ ? kK : i]->in[1].dim[0];
  }
};

// What kernels of norm_qkv rely on beside their own limits: a projection's row is the heads of one
// token, and RoPE and cache agree on what a head is. nullptr: it is so.
inline const char* qkv_heads_support(const QkvMembers& m) {
  const auto heads_of = [&](int i, const Tensor& t) {
    return t.dim[2] == m.norm->in[0].dim[1] && t.dim[0] * t.dim[1] == m.matmul[i]->in[0].dim[1];
  };
  for (const int i : {kK, kV})
    if (!heads_of(i, m.append[i]->in[1])) return "what is appended is not a token's heads";
  if (m.rope[kQ] == nullptr) return nullptr;
  for (const int i : {kQ, kK})
    if (!heads_of(i, m.rope[i]->in[0])) return "what RoPE turns is not a token's heads";
  if (m.rope[kK]->in[0].dim[0] != m.append[kK]->in[1].dim[0])
    return "K is appended in other heads than RoPE turned";
  return m.rope[kQ]->in[0].dim[0] == m.rope[kK]->in[0].dim[0]
             ? nullptr
             : "RoPE turns heads of Q and of K of different sizes";
}

}  // namespace mica::gpu
