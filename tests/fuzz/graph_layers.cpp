// Layers of a cache: norm, projections, RoPE, appends and attention, as models have them (norm_qkv)
// and nearly so.
#include <algorithm>
#include <cmath>

#include "tests/fuzz/graph_maker.h"

namespace mica::fuzz {

// h as heads of tokens; `other_heads`: through other heads on the way.
Item Maker::heads(const Item& h, int64_t head_dim, int64_t n_heads, bool other_heads) {
  const int64_t n_tokens = s_.extents[static_cast<size_t>(tokens_)].max;
  Item x = h;
  if (other_heads && head_dim % 2 == 0) x = reshaped(x, {head_dim / 2, n_heads * 2, n_tokens});
  return reshaped(x, {head_dim, n_heads, n_tokens});
}

// Mostly the layer's parameters, now and then others for Q or K alone.
mica_rope_params Maker::layer_rope(std::string& text) {
  mica_rope_params p = rope_;
  std::string more = rope_text_;
  if (rng_.chance(10)) p.attn_factor = 1.5f, more += " attn 1.5";
  text += more;
  return p;
}

// Mostly the cache's, as in a model; now and then others for Q or K alone.
mica_tensor Maker::layer_positions(const mica_kv& kv, std::string& text) {
  text = "kv.positions ";
  if (!rng_.chance(10)) return kv.positions;
  const int64_t n_tokens = s_.extents[static_cast<size_t>(tokens_)].max;
  const Item own = input(MICA_I32, {n_tokens}, {Fill::kIntegers, -20, 300}, tokens_);
  text = use(own) + " ";
  return own.t;
}

void Maker::append(int i, const mica_kv& kv, const Item& h) {
  const mica_kv_layer& l = s_.layers[static_cast<size_t>(i)];
  const int64_t n = l.n_kv_heads, dk = l.head_dim_k, dv = l.head_dim_v;
  const int64_t n_tokens = s_.extents[static_cast<size_t>(tokens_)].max;
  Item k = linear(h, dk * n), v = linear(h, dv * n);
  if (rng_.chance(25)) k = biased(k);
  if (rng_.chance(25)) v = biased(v);
  if (k.rank != 2 || k.dim[1] != n_tokens) k = reshaped(k, {dk * n, n_tokens});
  const bool rotate = rng_.chance(80) && dk % 2 == 0;
  // RoPE sees other heads than the cache has.
  const bool halved = rotate && dk % 4 == 0 && rng_.chance(12);
  k = heads(k, halved ? dk / 2 : dk, halved ? n * 2 : n, rng_.chance(8));
  if (rotate) {
    std::string text;
    const mica_tensor positions = layer_positions(kv, text);
    const mica_rope_params params =
        halved ? mica_rope_params MICA_ROPE_PARAMS_INIT : layer_rope(text);
    k = rotated(k, positions, params, text);
  }
  if (halved) k = reshaped(k, {dk, n, n_tokens});
  v = heads(v, dv, n, rng_.chance(8));
  if (rng_.chance(8)) v = unary_of(v, 4);
  if (rng_.chance(6)) copy_of(k);
  if (rng_.chance(6)) {  // no other type may enter the fused append
    Item like = k;
    k = add(mica_cast(g_, k.t, MICA_F16), like, "mica_cast(" + use(k) + ", f16)");
  }
  s_.log.push_back("  [" + std::to_string(piece_) + "] mica_kv_append(layer " + std::to_string(i) +
                   ", " + use(k) + ", " + use(v) + ")");
  mica_kv_append(g_, &kv, k.t, v.t);
  check();
}

void Maker::attend(int i, const mica_kv& kv, const Item& q) {
  const int64_t n_tokens = s_.extents[static_cast<size_t>(tokens_)].max;
  mica_attention_params p = MICA_ATTENTION_PARAMS_INIT;
  std::string text;
  if (rng_.chance(15)) p.scale = 0.2f, text += ", scale 0.2";
  if (rng_.chance(15)) p.softcap = 2.0f, text += ", softcap 2";
  if (rng_.chance(12)) p.non_causal = 1, text += ", non_causal";
  if (rng_.chance(15)) {
    const bool each = rng_.chance(40);
    const Dims dim = each ? Dims{128, n_tokens, q.dim[1]} : Dims{128, n_tokens};
    const mica_dtype dtype = rng_.chance(60) ? MICA_F32 : MICA_F16;
    const Item mask = s_.wild && rng_.chance(30) ? weight(dtype, dim, {Fill::kMask, 0, 1})
                                                 : input(dtype, dim, {Fill::kMask, 0, 1});
    p.mask = mask.t;
    text += ", mask " + use(mask);
  }
  if (rng_.chance(15)) {
    const Item sinks =
        rng_.chance(60) ? weight(MICA_F32, {q.dim[1]}) : input(MICA_F32, {q.dim[1]}, {});
    p.sinks = sinks.t;
    text += ", sinks " + use(sinks);
  }
  const mica_kv_layer& l = s_.layers[static_cast<size_t>(i)];
  Item like = q;
  like.packed = like.rows = true;
  like.exact = false;
  like.size = 5;
  const Item y = add(mica_attention(g_, q.t, &kv, &p), like,
                     "mica_attention(" + use(q) + ", layer " + std::to_string(i) + text + ")");
  if (!rng_.chance(60)) return;
  const Item flat = reshaped(y, {int64_t{l.head_dim_v} * q.dim[1], n_tokens});
  const Item o = linear(flat, any_dim());
  if (rng_.chance(50) && o.rank == 2)
    binary_of(input(MICA_F32, o.dims(), {Fill::kNormal, 0, 1}, tokens_), o, 0);
}

void Maker::layer(int i) {
  const mica_kv_layer& l = s_.layers[static_cast<size_t>(i)];
  const mica_kv kv = mica_graph_kv(g_, s_.cache, static_cast<uint32_t>(i), extent_of(tokens_));
  check();
  const Item* known = pick([&](const Item& x) {
    return x.dtype == MICA_F32 && x.rank == 2 && x.rows && x.extent == tokens_ && x.dim[0] >= 8;
  });
  const int64_t n_embd = rng_.of(std::vector<int64_t>{16, 32, 40, 64, 96, 256});
  const int64_t n_tokens = s_.extents[static_cast<size_t>(tokens_)].max;
  const Item x = known != nullptr && rng_.chance(60)
                     ? *known
                     : input(MICA_F32, {n_embd, n_tokens}, {Fill::kNormal, 0, 1}, tokens_);
  const Item w = weight(MICA_F32, {x.dim[0]}, {Fill::kUniform, 0.5, 1.5});
  const Item h = rms(x, &w);
  rope_ = MICA_ROPE_PARAMS_INIT;
  rope_text_.clear();
  if (l.head_dim_k % 2 == 0 && rng_.chance(40)) rope_ = rope_params(l.head_dim_k, rope_text_);
  const int64_t n_heads = l.n_kv_heads * rng_.in(1, 4);
  const bool q_first = rng_.chance(70);
  Item q;
  const auto make_q = [&] {
    q = linear(h, l.head_dim_k * n_heads);
    if (rng_.chance(25)) q = biased(q);
    if (rng_.chance(5)) copy_of(q);
    const bool rotate = rng_.chance(80) && l.head_dim_k % 2 == 0;
    const bool halved = rotate && l.head_dim_k % 4 == 0 && rng_.chance(12);
    q = heads(q, halved ? l.head_dim_k / 2 : l.head_dim_k, halved ? n_heads * 2 : n_heads,
              rng_.chance(8));
    if (rotate) {
      std::string text;
      const mica_tensor positions = layer_positions(kv, text);
      const mica_rope_params params =
          halved ? mica_rope_params MICA_ROPE_PARAMS_INIT : layer_rope(text);
      q = rotated(q, positions, params, text);
    }
    if (halved) q = reshaped(q, {l.head_dim_k, n_heads, n_tokens});
  };
  if (q_first) make_q();
  if (l.source == MICA_KV_NO_SOURCE) append(i, kv, h);
  if (!q_first) make_q();
  attend(i, kv, q);
  if (rng_.chance(15)) attend(i, kv, q);
}

}  // namespace mica::fuzz
