// Pieces that are, or nearly are, what the patterns of core/fusions take: with views and reshapes
// between the members, readers from outside, operands of other shapes and in the other order.
#include <algorithm>
#include <cmath>

#include "tests/fuzz/graph_maker.h"

namespace mica::fuzz {
namespace {

bool is_tokens(const Item& x) {
  return x.dtype == MICA_F32 && x.rank == 2 && x.rows && x.dim[0] >= 8;
}

}  // namespace

// x as it is, or its elements in the same order and shape through a reshape and back; or, which
// `changed` says, with other dimensions.
Item Maker::maybe_seen(const Item& x, bool& changed) {
  changed = false;
  if (!x.packed || x.rank != 2) return x;
  switch (rng_.in(0, 9)) {
    case 0: {
      const Dims dim = split(x);
      changed = dim != x.dims();
      return reshaped(x, dim);
    }
    case 1:
      return reshaped(reshaped(x, split(x)), x.dims());
    case 2: {
      const Item whole =
          add(mica_view(g_, x.t, 2, x.dim, nullptr), x, "mica_view(" + use(x) + ", whole)", true);
      return whole;
    }
    default:
      return x;
  }
}

Item Maker::linear(const Item& x, int64_t n) {
  const Fill fill{Fill::kNormal, 0, 1 / std::sqrt(static_cast<double>(x.dim[0]))};
  Dims dim = {x.dim[0], n};
  if (rng_.chance(3)) dim.push_back(1);
  if (rng_.chance(6)) return product(input(any_float(), dim, fill), x);
  return product(weight(weight_type(x.dim[0]), dim, fill), x);
}

// A bias of one row, or of another shape, before or behind the sum's other term.
Item Maker::biased(const Item& x) {
  const Fill fill{Fill::kNormal, 0, 0.5};
  const int64_t n = x.dim[0];
  Item b;
  switch (rng_.in(0, 9)) {
    case 0:
      b = s_.wild ? weight(MICA_F32, {n, 1}, fill) : input(MICA_F32, {n, 1}, fill);
      break;
    case 1:
      b = input(MICA_F32, x.dims(), fill, x.extent);
      break;
    case 2:
      b = weight(any_float(), {n}, fill);
      break;
    case 3:
      b = weight(MICA_F32, {1}, fill);
      break;
    case 4:
      b = input(MICA_F32, {n}, fill);
      break;
    default:
      b = weight(MICA_F32, {n}, fill);
  }
  return binary_of(x, b, rng_.chance(90) ? 0 : 1);
}

// norm_matmul, add_norm before it, matmul_add behind it.
void Maker::norm_projections() {
  Item x = value(is_tokens);
  if (!is_float(x.dtype) || !x.rows || (x.rank == 1 && x.extent >= 0)) return;
  if (rng_.chance(40)) {  // add_norm
    const Item* other = pick([&](const Item& b) {
      return is_float(b.dtype) && std::equal(x.dim, x.dim + 4, b.dim) && x.extent == b.extent &&
             x.rank == b.rank;
    });
    const Item b = other != nullptr && rng_.chance(50)
                       ? *other
                       : input(MICA_F32, x.dims(), {Fill::kNormal, 0, 1}, x.extent);
    x = binary_of(x, b, 0);
  }
  const Item w = rng_.chance(85) ? weight(MICA_F32, {x.dim[0]}, {Fill::kUniform, 0.5, 1.5})
                                 : operand({x.dim[0]}, {Fill::kUniform, 0.5, 1.5}, -1);
  Item h = rms(x, rng_.chance(92) ? &w : nullptr);
  const int64_t n = rng_.in(1, 5);
  for (int64_t i = 0; i < n; ++i) {
    bool changed = false;
    Item y = linear(rng_.chance(85) ? h : maybe_seen(h, changed), any_dim());
    if (rng_.chance(30)) y = biased(y);
  }
  if (rng_.chance(15)) unary_of(h, 0);
}

void Maker::norm_glu() {
  const Item x = value(is_tokens);
  if (!is_float(x.dtype) || !x.rows || (x.rank == 1 && x.extent >= 0)) return;
  const Item w = weight(MICA_F32, {x.dim[0]}, {Fill::kUniform, 0.5, 1.5});
  Item h = rms(x, &w);
  const int64_t n = rng_.of(std::vector<int64_t>{8, 16, 24, 32, 33, 64});
  Item gate = linear(h, n), up = linear(h, rng_.chance(95) ? n : 1);
  if (rng_.chance(10)) gate = biased(gate);
  if (rng_.chance(10)) up = biased(up);
  const Dims other = split(gate);
  const int64_t how = rng_.in(0, 9);
  bool changed = false;
  if (how == 0 && up.dims() == gate.dims()) gate = reshaped(gate, other), up = reshaped(up, other);
  if (how == 1) gate = maybe_seen(gate, changed);
  if (how == 2 && gate.extent < 0 && up.dims() == gate.dims())
    gate = permuted(gate, 1, 0, 2, 3), up = permuted(up, 1, 0, 2, 3);
  Item act = unary_of(gate, rng_.chance(45) ? 0 : rng_.chance(80) ? 1 : 5);
  if (how == 3) act = maybe_seen(act, changed);
  if (!changed && how == 4) up = maybe_seen(up, changed);
  if (changed) up = reshaped(up, act.dims());
  const bool swapped = rng_.chance(10) && up.dims() == act.dims();
  Item y = swapped ? binary_of(up, act, 2) : binary_of(act, up, 2);
  if (rng_.chance(12)) copy_of(rng_.chance(50) ? gate : up);
  if (rng_.chance(12)) copy_of(h);
  if (rng_.chance(60) && y.rank == 2 && y.rows && y.dim[0] > 1) {  // down, and the residual
    const Item down = linear(y, x.dim[0]);
    if (down.dtype == MICA_F32 && down.dims() == x.dims()) binary_of(x, down, 0);
  }
}

// matmul_add with every kind of residual.
void Maker::residual() {
  const Item x = value(is_tokens);
  if (!is_float(x.dtype) || !x.rows || (x.rank == 1 && x.extent >= 0)) return;
  bool changed = false;
  const Item plain = linear(x, any_dim());
  Item y = maybe_seen(plain, changed);
  Item r;
  switch (rng_.in(0, 5)) {
    case 0:
      binary_of(y, y, 0);
      return;
    case 1:
      r = operand({y.dim[0]}, {Fill::kNormal, 0, 1}, -1);
      binary_of(y, r, 0);
      return;
    case 2:
      if (y.extent < 0) {
        r = weight(MICA_F32, y.dims());
        if (rng_.chance(50))
          binary_of(r, y, 0);
        else
          binary_of(y, r, 0);
        return;
      }
      break;
    case 3: {  // a slice of a wider input, rows with gaps
      Dims wide = y.dims();
      if (wide.size() < 2) break;
      wide[0] += 3;
      const Item big = input(MICA_F32, wide, {Fill::kNormal, 0, 1}, y.extent);
      const int64_t start[4] = {rng_.in(0, 3), 0, 0, 0};
      Item like = big;
      like.packed = false;
      r = add(mica_view(g_, big.t, y.rank, y.dim, start), like,
              "mica_view(" + use(big) + ", slice)", true);
      binary_of(r, y, 0);
      return;
    }
    default:
      break;
  }
  r = input(rng_.chance(85) ? MICA_F32 : MICA_F16, y.dims(), {Fill::kNormal, 0, 1}, y.extent);
  if (rng_.chance(50))
    binary_of(r, y, 0);
  else
    binary_of(y, r, 0);
  if (rng_.chance(15)) copy_of(plain);
}

}  // namespace mica::fuzz
