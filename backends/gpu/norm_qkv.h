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

}  // namespace mica::gpu
