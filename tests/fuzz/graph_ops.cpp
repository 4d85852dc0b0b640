// Pieces of one op, with operands of every kind that its builder takes, and some that it does not.
#include <algorithm>
#include <numeric>

#include "tests/fuzz/graph_maker.h"

namespace mica::fuzz {
namespace {

bool any_float_item(const Item& x) { return is_float(x.dtype); }
bool float_rows(const Item& x) {
  return is_float(x.dtype) && x.rows && !(x.extent >= 0 && x.rank == 1);
}
bool same_shape(const Item& a, const Item& b) {
  return std::equal(a.dim, a.dim + 4, b.dim) && a.extent == b.extent &&
         (a.extent < 0 || a.rank == b.rank);
}
std::string number(double v) { return std::to_string(v); }

}  // namespace

void Maker::step() {
  static constexpr void (Maker::*kSteps[])() = {&Maker::unary,
                                                &Maker::binary,
                                                &Maker::binary,
                                                &Maker::norm,
                                                &Maker::softmax,
                                                &Maker::matmul,
                                                &Maker::matmul,
                                                &Maker::matmul,
                                                &Maker::get_rows,
                                                &Maker::concat,
                                                &Maker::rope,
                                                &Maker::glu,
                                                &Maker::cast,
                                                &Maker::view,
                                                &Maker::reshape,
                                                &Maker::permute,
                                                &Maker::view,
                                                &Maker::set_rows,
                                                &Maker::choose,
                                                &Maker::norm_projections,
                                                &Maker::norm_projections,
                                                &Maker::norm_glu,
                                                &Maker::norm_glu,
                                                &Maker::residual};
  const auto n = static_cast<int64_t>(sizeof kSteps / sizeof kSteps[0]);
  (this->*kSteps[rng_.in(0, n - 1)])();
}

Item Maker::unary_of(const Item& x, int which) {
  Item like = x;
  like.packed = like.rows = true;
  like.exact = x.exact && which == 4;
  const std::string a = "(" + use(x) + ")";
  if (which == 3 || which == 5) like.size = 1;
  switch (which) {
    case 0:
      return add(mica_silu(g_, x.t), like, "mica_silu" + a);
    case 1:
      return add(mica_gelu(g_, x.t), like, "mica_gelu" + a);
    case 2:
      return add(mica_gelu_erf(g_, x.t), like, "mica_gelu_erf" + a);
    case 3:
      return add(mica_tanh(g_, x.t), like, "mica_tanh" + a);
    case 4:
      return add(mica_relu(g_, x.t), like, "mica_relu" + a);
    case 5:
      return add(mica_sigmoid(g_, x.t), like, "mica_sigmoid" + a);
    default:
      break;
  }
  const auto scale = static_cast<float>(rng_.in(-4, 4)) * 0.37f;
  const float bias = rng_.chance(50) ? 0.0f : 0.61f;
  like.size = x.size * std::fabs(static_cast<double>(scale)) + static_cast<double>(bias);
  return add(mica_scale(g_, x.t, scale, bias), like,
             "mica_scale" + a.substr(0, a.size() - 1) + ", " + number(static_cast<double>(scale)) +
                 ", " + number(static_cast<double>(bias)) + ")");
}
void Maker::unary() { unary_of(value(any_float_item), static_cast<int>(rng_.in(0, 6))); }

Item Maker::binary_of(const Item& a, const Item& b, int which) {
  static const char* const names[] = {"mica_add", "mica_sub", "mica_mul", "mica_div"};
  Item like = a;
  like.packed = like.rows = true;
  like.exact = a.exact && b.exact && a.dtype == MICA_F32;
  like.size = which < 2 ? a.size + b.size : which == 2 ? a.size * b.size : a.size * 2;
  const std::string text = std::string(names[which]) + "(" + use(a) + ", " + use(b) + ")";
  const mica_tensor t = which == 0   ? mica_add(g_, a.t, b.t)
                        : which == 1 ? mica_sub(g_, a.t, b.t)
                        : which == 2 ? mica_mul(g_, a.t, b.t)
                                     : mica_div(g_, a.t, b.t);
  return tame(add(t, like, text));
}

void Maker::binary() {
  const Item a = value(any_float_item);
  const int which = static_cast<int>(rng_.in(0, 3));
  const Fill away{Fill::kUniform, 0.5, 2};  // a denominator is not near 0
  const Item* other = pick([&](const Item& b) { return any_float_item(b) && same_shape(a, b); });
  if (which != 3 && other != nullptr && rng_.chance(60)) {
    const Item b = *other;
    binary_of(a, b, which);
    return;
  }
  Dims dim = a.dims();
  int extent = a.extent;
  if (rng_.chance(60))
    for (int64_t& d : dim)
      if (rng_.chance(45)) d = 1;
  if (extent >= 0 && dim.back() == 1) extent = -1;
  if (extent < 0 && rng_.chance(40)) dim.resize(1);
  if (a.extent >= 0 && a.rank == 1) dim = a.dims(), extent = a.extent;
  binary_of(a, operand(dim, which == 3 ? away : Fill{Fill::kNormal, 0, 1}, extent), which);
}

Item Maker::rms(const Item& x, const Item* weight) {
  Item like = x;
  like.packed = like.rows = true;
  like.exact = false;
  like.size = 5 * (weight != nullptr ? weight->size : 1);
  const float eps = rng_.chance(50) ? 1e-5f : 1e-2f;
  return add(mica_rms_norm(g_, x.t, weight != nullptr ? weight->t : MICA_NO_TENSOR, eps), like,
             "mica_rms_norm(" + use(x) + ", " + (weight != nullptr ? use(*weight) : "none") + ", " +
                 number(static_cast<double>(eps)) + ")");
}

void Maker::norm() {
  const Item x = value(float_rows);
  const Fill near_one{Fill::kUniform, 0.5, 1.5};
  const bool has_weight = rng_.chance(75);
  Item w;
  if (has_weight) w = operand({x.dim[0]}, near_one, -1);
  if (rng_.chance(60)) {
    rms(x, has_weight ? &w : nullptr);
    return;
  }
  Item b;
  const bool has_bias = rng_.chance(60);
  if (has_bias) b = operand({x.dim[0]}, {Fill::kNormal, 0, 0.3}, -1);
  Item like = x;
  like.packed = like.rows = true;
  like.exact = false;
  like.size = 8;
  add(mica_layer_norm(g_, x.t, has_weight ? w.t : MICA_NO_TENSOR, has_bias ? b.t : MICA_NO_TENSOR,
                      1e-2f),
      like,
      "mica_layer_norm(" + use(x) + ", " + (has_weight ? use(w) : "none") + ", " +
          (has_bias ? use(b) : "none") + ", 0.01)");
}

void Maker::softmax() {
  const Item x = value(float_rows);
  Item mask;
  const bool masked = rng_.chance(60);
  if (masked) {
    Dims dim = x.dims();
    int extent = x.extent;
    for (size_t i = 1; i < dim.size(); ++i)
      if (rng_.chance(40)) dim[i] = 1;
    if (extent >= 0 && dim.back() == 1) extent = -1;
    mask = operand(dim, {Fill::kMask, 0, 1}, extent);
  }
  Item like = x;
  like.packed = like.rows = true;
  like.exact = false;
  like.size = 1;
  const float scale = rng_.chance(50) ? 1.0f : 0.3f;
  add(mica_softmax(g_, x.t, masked ? mask.t : MICA_NO_TENSOR, scale), like,
      "mica_softmax(" + use(x) + ", " + (masked ? use(mask) : "none") + ", " +
          number(static_cast<double>(scale)) + ")");
}

Item Maker::product(const Item& w, const Item& x) {
  Item like = x;
  like.packed = like.rows = true;
  like.exact = false;
  like.size = w.size * x.size * std::sqrt(static_cast<double>(x.dim[0])) / 4;
  return tame(add(mica_matmul(g_, w.t, x.t), like, "mica_matmul(" + use(w) + ", " + use(x) + ")"));
}

// What x can be multiplied by: a weight of any type, also with slices, an input, or a result.
Item Maker::matmul_operand(const Item& x) {
  const int64_t k = x.dim[0];
  const Fill fill{Fill::kNormal, 0, 1 / std::sqrt(static_cast<double>(k))};
  const Item* computed = pick([&](const Item& w) {
    return float_rows(w) && w.dim[0] == k && w.extent < 0 && x.dim[2] % w.dim[2] == 0 &&
           x.dim[3] % w.dim[3] == 0;
  });
  if (computed != nullptr && rng_.chance(35)) return *computed;
  Dims dim = {k, any_dim()};
  if (x.dim[2] * x.dim[3] > 1 && rng_.chance(60)) {
    dim.push_back(rng_.chance(50) ? x.dim[2] : 1);
    if (x.dim[2] % 2 == 0 && rng_.chance(30)) dim[2] = x.dim[2] / 2;
    if (x.dim[3] > 1 && rng_.chance(50)) dim.push_back(x.dim[3]);
  }
  if (rng_.chance(dim.size() > 2 ? 50 : 15)) return input(any_float(), dim, fill);
  return weight(weight_type(k), dim, fill);
}

void Maker::matmul() {
  if (s_.wild && rng_.chance(15)) {  // a weight as x
    const mica_dtype dtype = any_float();
    const Item x = weight(dtype, {32, any_dim()});
    product(matmul_operand(x), x);
    return;
  }
  const Item x = value(float_rows);
  product(matmul_operand(x), x);
}

void Maker::get_rows() {
  Item table;
  const Item* known =
      pick([](const Item& x) { return x.rank <= 2 && x.rows && !(x.rank == 1 && x.extent >= 0); });
  if (known != nullptr && rng_.chance(50)) {
    table = *known;
  } else {
    const int64_t k = shape(-1)[0];
    const Dims dim = {k, any_dim()};
    const mica_dtype d = weight_type(k);
    table = rng_.chance(70) || is_quantized(d) ? weight(d, dim, {Fill::kNormal, 0, 1})
                                               : input(d, dim, {Fill::kNormal, 0, 1});
  }
  const Item* chosen =
      pick([](const Item& x) { return x.dtype == MICA_I32 && x.rank == 1 && x.packed && x.exact; });
  const int extent = rng_.chance(50) ? static_cast<int>(rng_.in(0, 1)) : -1;
  const int64_t n = extent >= 0 ? s_.extents[static_cast<size_t>(extent)].max : any_dim();
  const auto rows = static_cast<double>(table.dim[1]);
  const Item ids = chosen != nullptr && rng_.chance(30)
                       ? *chosen
                       : input(MICA_I32, {n},
                               {Fill::kIntegers, rng_.chance(25) ? -2.0 : 0.0,
                                rng_.chance(25) ? rows + 1 : rows - 1},
                               extent);
  Item like = table;
  like.packed = like.rows = true;
  like.exact = table.exact && ids.exact;
  add(mica_get_rows(g_, table.t, ids.t), like,
      "mica_get_rows(" + use(table) + ", " + use(ids) + ")");
}

void Maker::concat() {
  const Item a = value([](const Item& x) { return !(x.extent >= 0 && x.rank == 1); });
  const uint32_t last = a.extent >= 0 ? a.rank - 1 : a.rank;
  const auto dim = static_cast<uint32_t>(rng_.in(0, std::max<int64_t>(0, last - 1)));
  const Item* known = pick([&](const Item& b) {
    for (uint32_t i = 0; i < 4; ++i)
      if (i != dim && a.dim[i] != b.dim[i]) return false;
    return b.dtype == a.dtype && b.extent == a.extent && (a.extent < 0 || a.rank == b.rank);
  });
  Item b = known != nullptr ? *known : a;
  if (is_float(a.dtype) && rng_.chance(30)) {
    Dims other = a.dims();
    other[dim] = any_dim();
    b = input(a.dtype, other, {Fill::kNormal, 0, 1}, a.extent);
  }
  if (a.elements() + b.elements() > 20000) return;
  Item like = a;
  like.packed = like.rows = true;
  like.exact = a.exact && b.exact;
  like.size = std::max(a.size, b.size);
  add(mica_concat(g_, a.t, b.t, dim), like,
      "mica_concat(" + use(a) + ", " + use(b) + ", " + std::to_string(dim) + ")");
}

mica_rope_params Maker::rope_params(int64_t head_dim, std::string& text) {
  mica_rope_params p = MICA_ROPE_PARAMS_INIT;
  if (rng_.chance(35)) p.n_rot = static_cast<uint32_t>(rng_.in(1, head_dim / 2) * 2);
  if (p.n_rot != 0 && rng_.chance(40))
    p.offset = static_cast<uint32_t>(rng_.in(0, head_dim - p.n_rot));
  if (rng_.chance(40)) p.pairing = MICA_ROPE_HALF_SPLIT;
  if (rng_.chance(30)) p.base = 500.0f;
  if (rng_.chance(20)) p.linear_scale = 0.25f;
  if (rng_.chance(20)) p.ext_factor = 1, p.linear_scale = 0.25f, p.n_ctx_orig = 32;
  if (rng_.chance(20)) p.attn_factor = 1.2f;
  const uint32_t n_rot = p.n_rot != 0 ? p.n_rot : static_cast<uint32_t>(head_dim);
  text = "n_rot " + std::to_string(p.n_rot) + " offset " + std::to_string(p.offset) + " pairing " +
         std::to_string(p.pairing) + " base " + number(static_cast<double>(p.base)) + " scale " +
         number(static_cast<double>(p.linear_scale)) + " ext " +
         number(static_cast<double>(p.ext_factor)) + " attn " +
         number(static_cast<double>(p.attn_factor));
  if (rng_.chance(20)) {
    const Item factors = operand({n_rot / 2}, {Fill::kUniform, 1, 8}, -1);
    if (factors.dtype == MICA_F32) p.freq_factors = factors.t, text += " factors " + use(factors);
  }
  return p;
}

Item Maker::rotated(const Item& x, mica_tensor positions, const mica_rope_params& params,
                    const std::string& text) {
  Item like = x;
  like.packed = like.rows = true;
  like.exact = false;
  like.size = x.size * 2;
  return add(mica_rope(g_, x.t, positions, &params), like,
             "mica_rope(" + use(x) + ", " + text + ")");
}

void Maker::rope() {
  Item x = value([](const Item& v) {
    return float_rows(v) && v.dim[0] % 2 == 0 && (v.rank == 3 || (v.rank == 2 && v.packed));
  });
  if (x.dim[0] % 2 != 0) return;
  if (x.rank != 3) {
    const int64_t n = x.dim[0] % 4 == 0 && rng_.chance(70) ? x.dim[0] / 4 * 2 : x.dim[0];
    x = reshaped(x, {n, x.dim[0] / n, x.elements() / x.dim[0]});
  }
  std::string text;
  const mica_rope_params params = rope_params(x.dim[0], text);
  const Item positions = input(MICA_I32, {x.dim[2]}, {Fill::kIntegers, -20, 300}, x.extent);
  rotated(x, positions.t, params, use(positions) + ", " + text);
}

void Maker::glu() {
  const Item gate = value(any_float_item);
  const Item* known = pick([&](const Item& b) { return any_float_item(b) && same_shape(gate, b); });
  const Item up = known != nullptr && rng_.chance(80)
                      ? *known
                      : input(MICA_F32, gate.dims(), {Fill::kNormal, 0, 1}, gate.extent);
  Item like = gate;
  like.packed = like.rows = true;
  like.exact = false;
  like.size = gate.size * up.size;
  const bool silu = rng_.chance(50);
  const std::string operands = "(" + use(gate) + ", " + use(up) + ")";
  tame(add(silu ? mica_swiglu(g_, gate.t, up.t) : mica_geglu(g_, gate.t, up.t), like,
           (silu ? "mica_swiglu" : "mica_geglu") + operands));
}

void Maker::set_rows() {
  const Item x = value([](const Item& v) { return float_rows(v) && v.rank == 2; });
  if (x.rank > 2) return;
  const int64_t rows = rng_.in(1, 12);
  const Item dst = input(weight_type(x.dim[0]), {x.dim[0], rows}, {Fill::kNormal, 0, 1}, -1, true);
  Leaf& leaf = s_.inputs.back();
  leaf.exact = x.exact;
  written.push_back(leaf.name);
  const mica_dtype ids_type = rng_.chance(70) ? MICA_I32 : MICA_I64;
  const Item ids = input(ids_type, {x.dim[1]},
                         {Fill::kDistinct, static_cast<double>(rng_.in(-2, 1)), 0}, x.extent);
  if (rng_.chance(30)) copy_of(dst);
  Item like = dst;
  like.exact = x.exact;
  like.size = std::max(x.size, dst.size);
  add(mica_set_rows(g_, dst.t, x.t, ids.t), like,
      "mica_set_rows(" + use(dst) + ", " + use(x) + ", " + use(ids) + ")");
  for (Item& item : items_)
    if (item.t.index == dst.t.index) item.exact = x.exact;
}

// Indices: only of what every backend has the same bits of.
void Maker::choose() {
  const auto known_bits = [](const Item& v) {
    return float_rows(v) && v.dtype == MICA_F32 && v.exact;
  };
  Item x = value(known_bits);
  if (!known_bits(x)) return;
  Item like = x;
  like.packed = like.rows = true;
  const int64_t which = rng_.in(0, 2);
  if (which == 0) {
    add(mica_argmax(g_, x.t), like, "mica_argmax(" + use(x) + ")");
  } else if (which == 1) {
    const auto k = static_cast<uint32_t>(rng_.in(1, x.dim[0]));
    add(mica_top_k(g_, x.t, k), like, "mica_top_k(" + use(x) + ", " + std::to_string(k) + ")");
  } else if (x.rank == 2) {
    const Item params = input(MICA_F32, {4, x.dim[1]}, {Fill::kUniform, -0.2, 1.5}, x.extent);
    const Item keys = input(MICA_I32, {4, x.dim[1]}, {Fill::kIntegers, 0, 1000}, x.extent);
    add(mica_sample(g_, x.t, params.t, keys.t), like,
        "mica_sample(" + use(x) + ", " + use(params) + ", " + use(keys) + ")");
  }
}

}  // namespace mica::fuzz
