// norm_qkv: an rms_norm, the projections of Q, K and V with their biases, RoPE of Q and K, and both
// appends to the cache. Members in this order, those in brackets only where the graph has them:
//   rms_norm                     of x [n_embd, n_tokens] by a weight [n_embd]
//   matmul Q  [add Q]  [rope Q]  matmul: in[0] a weight [n_embd, N], in[1] the norm
//   matmul K  [add K]  [rope K]  add: in[0] the whole matmul, in[1] a weight [N]
//   matmul V  [add V]            rope: in[0] the value before it as [head_dim, n_heads, n_tokens]
//   kv_append K                  in[0] state, in[1] rows [head_dim, n_kv_heads, n_tokens]: K's last
//   kv_append V                  value reshaped, of rope K its very shape; in[2] slots, one input
// An add and a rope belong to the matmul before them. Each rope has args, angles (in[1], [n_rot,
// n_tokens], of rope_angles, mostly one value for both) and a head_dim of its own. n_tokens is x's
// everywhere.
// 6 to 11 members; the last two are always the appends. Q's last value (rope Q, or add Q, or matmul
// Q) has memory, and so has the norm's output when something else reads it too; no other value has.
#include <utility>

#include "core/fusions/norm.h"

namespace mica {
namespace {

// What a projection goes through; MICA_B_NONE where a part is absent.
struct Chain {
  uint32_t matmul = MICA_B_NONE, bias = MICA_B_NONE, rope = MICA_B_NONE, append = MICA_B_NONE;
};

bool is_bias(const FusionView& view, uint32_t node, uint32_t matmul) {
  if (!view.is(node, MICA_OP_add) || !view.takes_whole(node, 0, matmul)) return false;
  const mica_b_value& b = view.input(node, 1);
  return b.storage == MICA_B_WEIGHT && b.dim[0] == view.value(view.node(matmul).output).dim[0] &&
         b.dim[1] == 1 && b.dim[2] == 1 && b.dim[3] == 1;
}

Chain follow(const FusionView& view, uint32_t matmul) {
  Chain c;
  c.matmul = matmul;
  uint32_t last = matmul, next = view.only_reader(last);
  if (is_bias(view, next, last)) {
    last = c.bias = next;
    next = view.only_reader(last);
  }
  if (view.is(next, MICA_OP_rope) && view.takes_whole(next, 0, last)) {
    last = c.rope = next;
    next = view.only_reader(last);
  }
  if (view.is(next, MICA_OP_kv_append) && view.takes_whole(next, 1, last)) c.append = next;
  return c;
}

// The two nodes of one mica_kv_append: K's first; a layer's K lies before its V.
bool is_pair(const FusionView& view, uint32_t k, uint32_t v) {
  return v == k + 1 && view.input(k, 0).offset < view.input(v, 0).offset &&
         view.node(k).input[2] == view.node(v).input[2];
}

// Q is what attention reads; where that cannot be seen, the one projection that is left.
const Chain* find_q(const FusionView& view, const Chain* chains, uint32_t n) {
  const Chain* left = nullptr;
  uint32_t n_left = 0;
  for (uint32_t i = 0; i < n; ++i) {
    const Chain& c = chains[i];
    if (c.append != MICA_B_NONE) continue;
    const uint32_t last = c.rope != MICA_B_NONE   ? c.rope
                          : c.bias != MICA_B_NONE ? c.bias
                                                  : c.matmul;
    const uint32_t v = view.node(last).output;
    for (uint32_t r = view.reader(v, last + 1); r != MICA_B_NONE; r = view.reader(v, r + 1))
      if (view.is(r, MICA_OP_attention) && view.takes_whole(r, 0, last)) return &c;
    left = &c;
    ++n_left;
  }
  return n_left == 1 ? left : nullptr;
}

// Heads of all tokens: [head_dim, n_heads, n_tokens], n_tokens those of the matmul.
bool splits_rows(const FusionView& view, uint32_t i, uint32_t k, uint32_t matmul) {
  const mica_b_value &heads = view.input(i, k), &y = view.value(view.node(matmul).output);
  return heads.rank == 3 && heads.dim[2] == y.dim[1] && heads.dim[0] * heads.dim[1] == y.dim[0];
}

// Why the three are no region; nullptr: they are one.
const char* why_not(const FusionView& view, const Chain& q, const Chain& k, const Chain& v) {
  if (v.rope != MICA_B_NONE) return "V goes through RoPE";
  if (!is_pair(view, k.append, v.append)) return "K and V are not of one mica_kv_append";
  if (!splits_rows(view, k.append, 1, k.matmul) || !splits_rows(view, v.append, 1, v.matmul))
    return "the rows appended are not the heads of one token each";
  for (const Chain* c : {&q, &k})
    if (c->rope != MICA_B_NONE && !splits_rows(view, c->rope, 0, c->matmul))
      return "what RoPE turns are not the heads of one token each";
  return k.rope == MICA_B_NONE ||
                 view.same_shape(view.node(k.rope).output, view.node(k.append).input[1])
             ? nullptr
             : "K is appended in other heads than RoPE turned";
}

uint32_t match(const FusionView& view, uint32_t node, uint32_t* members, const char** near_miss) {
  uint32_t found[8];
  Chain chains[8];
  if (!is_norm(view, node)) return 0;
  const uint32_t n = projections(view, node, found, 8, near_miss);
  const Chain *k = nullptr, *v = nullptr;
  for (uint32_t i = 0; i < n; ++i) {
    Chain& c = chains[i] = follow(view, found[i]);
    if (c.append == MICA_B_NONE) continue;
    if (k != nullptr && v != nullptr) return 0;
    (k == nullptr ? k : v) = &c;
  }
  if (k == nullptr) return 0;
  *near_miss = "only one of K and V is a projection of the norm that nothing else reads";
  if (v == nullptr) return 0;
  if (v->append < k->append) std::swap(k, v);
  const Chain* q = find_q(view, chains, n);
  *near_miss =
      q == nullptr ? "no projection of the norm can be told to be Q" : why_not(view, *q, *k, *v);
  if (*near_miss != nullptr) return 0;
  const uint32_t all[] = {node,    q->matmul, q->bias, q->rope,   k->matmul, k->bias,
                          k->rope, v->matmul, v->bias, k->append, v->append};
  uint32_t n_members = 0;
  for (const uint32_t m : all)
    if (m != MICA_B_NONE) members[n_members++] = m;
  return n_members;
}

}  // namespace
}  // namespace mica

MICA_DEFINE_FUSION(norm_qkv, 50, mica::match)
