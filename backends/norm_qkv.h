// The members of core/fusions/norm_qkv.cpp's region by their roles, for kernels of any backend:
// Call is the backend's own.
#pragma once
#include "mica/backend.h"

namespace mica {
namespace {  // no symbol that a linker may take from another instruction set

enum QkvRole { kQ, kK, kV, kProjections };

template <class Call>
struct QkvMembers {
  const Call* norm;
  const Call* matmul[kProjections] = {};
  const Call* bias[kProjections] = {};    // nullptr: none
  const Call* rope[kProjections] = {};    // of Q and K; nullptr: none
  const Call* append[kProjections] = {};  // of K and V

  explicit QkvMembers(const Call& c) : norm(c.members) {
    uint32_t at = 1;
    for (int i = kQ; i <= kV; ++i) {
      matmul[i] = &c.members[at++];
      if (c.members[at].op == MICA_OP_add) bias[i] = &c.members[at++];
      if (c.members[at].op == MICA_OP_rope) rope[i] = &c.members[at++];
    }
    append[kK] = &c.members[at++];
    append[kV] = &c.members[at];
  }
  // Q's last value, which has memory.
  const auto& q() const {
    return rope[kQ] != nullptr   ? rope[kQ]->out
           : bias[kQ] != nullptr ? bias[kQ]->out
                                 : matmul[kQ]->out;
  }
  // Elements of a head. Without RoPE it does not matter what a head of Q is: K's will do.
  int64_t head_dim(int i) const {
    return i == kQ && rope[kQ] != nullptr ? rope[kQ]->in[0].dim[0]
                                          : append[i == kQ ? kK : i]->in[1].dim[0];
  }
  int64_t n_rows(int i) const { return matmul[i]->in[0].dim[1]; }
  int64_t n_tokens() const { return norm->in[0].dim[1]; }

  // What kernels rely on beside their own limits: a projection's row is the heads of one token, and
  // RoPE of K and the cache agree on what a head is. nullptr: it is so.
  const char* heads_support() const {
    const auto heads_of = [&](int i, const auto& t) {
      return t.dim[2] == n_tokens() && t.dim[0] * t.dim[1] == n_rows(i);
    };
    for (int i = kQ; i <= kV; ++i) {
      if (append[i] != nullptr && !heads_of(i, append[i]->in[1]))
        return "what is appended is not a token's heads";
      if (rope[i] != nullptr && !heads_of(i, rope[i]->in[0]))
        return "what RoPE turns is not a token's heads";
    }
    return rope[kK] == nullptr || rope[kK]->in[0].dim[0] == head_dim(kK)
               ? nullptr
               : "K is appended in other heads than RoPE turned";
  }
};

}  // namespace
}  // namespace mica
