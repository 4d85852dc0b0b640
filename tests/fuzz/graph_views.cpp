// Pieces that change nothing but where and how values lie: copies, casts and views.
#include <algorithm>

#include "tests/fuzz/graph_maker.h"

namespace mica::fuzz {

Item Maker::copy_of(const Item& x) {
  Item like = x;
  like.packed = like.rows = true;
  return add(mica_copy(g_, x.t), like, "mica_copy(" + use(x) + ")");
}

void Maker::cast() {
  const Item x = value([](const Item&) { return true; });
  mica_dtype to = rng_.of(std::vector<mica_dtype>{MICA_F32, MICA_F16, MICA_BF16});
  if (x.dtype == MICA_F32 && rng_.chance(35)) to = weight_type(x.dim[0]);
  if (x.exact && !is_quantized(x.dtype) && rng_.chance(15))
    to = rng_.chance(50) ? MICA_I32 : MICA_I64;
  if (is_quantized(x.dtype)) to = rng_.chance(80) ? MICA_F32 : x.dtype;
  Item like = x;
  like.packed = like.rows = true;
  add(mica_cast(g_, x.t, to), like, "mica_cast(" + use(x) + ", " + mica_dtype_get(to)->name + ")");
}

void Maker::view() {
  const Item x = value([](const Item&) { return true; });
  int64_t dim[4], start[4] = {0, 0, 0, 0};
  Item like = x;
  bool cut_below = false;
  std::string text;
  for (uint32_t i = 0; i < x.rank; ++i) {
    const int64_t block = i == 0 ? block_of(x.dtype) : 1, n = x.dim[i] / block;
    const bool whole = rng_.chance(40) || (x.extent >= 0 && i + 1 == x.rank);
    start[i] = whole ? 0 : rng_.in(0, n - 1);
    dim[i] = whole ? n : rng_.in(1, n - start[i]);
    like.packed = like.packed && !(cut_below && dim[i] > 1);
    cut_below = cut_below || dim[i] != n;
    start[i] *= block;
    dim[i] *= block;
    text += ", " + std::to_string(start[i]) + "+" + std::to_string(dim[i]);
  }
  add(mica_view(g_, x.t, x.rank, dim, start), like, "mica_view(" + use(x) + text + ")", true);
}

// Random factors of the same elements; the extent stays last.
Dims Maker::split(const Item& x) {
  const int64_t block = block_of(x.dtype);
  const bool keeps = x.extent >= 0;
  int64_t left = x.elements() / block / (keeps ? x.dim[x.rank - 1] : 1);
  const int64_t n = rng_.in(1, keeps ? 3 : 4);
  Dims dim;
  for (int64_t i = 0; i + 1 < n; ++i) {
    std::vector<int64_t> divisors;
    for (int64_t d = 1; d <= left; ++d)
      if (left % d == 0) divisors.push_back(d);
    const int64_t d = rng_.of(divisors);
    dim.push_back(d);
    left /= d;
  }
  dim.push_back(left);
  dim[0] *= block;
  if (keeps) dim.push_back(x.dim[x.rank - 1]);
  return dim;
}

Item Maker::reshaped(const Item& x, const Dims& dim) {
  Item like = x;
  return add(mica_reshape(g_, x.t, static_cast<uint32_t>(dim.size()), dim.data()), like,
             "mica_reshape(" + use(x) + ", " + text_of(dim) + ")", true);
}
void Maker::reshape() {
  const bool any = s_.wild;
  const Item x =
      value([&](const Item& v) { return (any || v.packed) && !(v.extent >= 0 && v.rank == 1); });
  reshaped(x, split(x));
}

Item Maker::permuted(const Item& x, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3) {
  Item like = x;
  like.packed = false;
  like.rows = a0 == 0 && x.rows;
  return add(mica_permute(g_, x.t, a0, a1, a2, a3), like,
             "mica_permute(" + use(x) + ", " + std::to_string(a0) + ", " + std::to_string(a1) +
                 ", " + std::to_string(a2) + ", " + std::to_string(a3) + ")",
             true);
}
void Maker::permute() {
  const Item x = value([](const Item& v) { return v.rank > 1; });
  uint32_t axis[4] = {0, 1, 2, 3};
  const uint32_t first = is_quantized(x.dtype) || rng_.chance(40) ? 1 : 0;
  const uint32_t end = x.extent >= 0 ? x.rank - 1 : rng_.chance(80) ? x.rank : 4;
  for (uint32_t i = first; i < end; ++i) std::swap(axis[i], axis[rng_.in(i, std::max(i, end - 1))]);
  permuted(x, axis[0], axis[1], axis[2], axis[3]);
}

}  // namespace mica::fuzz
