// A network that is nothing but cache work, in double precision and as plainly as it can be said.
// Of each sequence it knows a list of cells: their positions, and K and V of each layer as the
// cache's types keep them. Only the encoders of those types are the library's.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <unordered_map>
#include <vector>

#include "mica/mica.h"
#include "mica/ops.h"

namespace mica::kv_test {

constexpr uint32_t kLayers = 3, kHeads = 4, kKvHeads = 2;

// Layer i: x is its input, 4 rows of a head. q = RoPE(x), k = RoPE(rows 0 and 1), v = rows 2 and 3;
// x of the next layer is its own input plus what attention gave.
struct Net {
  uint32_t head_dim = 64, max_entries = 0;
  std::array<mica_kv_layer, kLayers> layers{};  // window, n_first, source
  std::array<mica_rope_params, kLayers> rope{};
  std::vector<float> factors;  // of all frequencies; none: 1

  bool owns(uint32_t layer) const { return layers[layer].source == MICA_KV_NO_SOURCE; }
  uint32_t owner(uint32_t layer) const { return owns(layer) ? layer : layers[layer].source; }
  size_t x_size() const { return size_t{kHeads} * head_dim; }
  size_t kv_size() const { return size_t{kKvHeads} * head_dim; }
};

// RoPE of a layer: ops/rope.h.
class Rope {
 public:
  Rope(const mica_rope_params& p, const std::vector<float>& factors) : p_(p), rates_(p.n_rot / 2) {
    for (size_t i = 0; i < rates_.size(); ++i) {
      const double at = static_cast<double>(i);
      double e = std::pow(double{p.base}, -2 * at / p.n_rot);
      if (!factors.empty()) e /= double{factors[i]};
      const double r = p.ext_factor == 0 ? 0 : mix(at);
      rates_[i] = double{p.linear_scale} * e * (1 - r) + e * r;
    }
  }
  double magnitude() const {
    const double log = p_.ext_factor == 0 ? 0 : std::log(1 / double{p_.linear_scale});
    return double{p_.attn_factor} * (1 + 0.1 * log);
  }
  // Rotates a head by so many positions, and nothing else.
  void turn(double* row, int64_t by) const {
    const size_t n = rates_.size();
    const std::vector<double>& at = angles(by);
    for (size_t i = 0; i < n; ++i) {
      const bool adjacent = p_.pairing == MICA_ROPE_ADJACENT;
      double& x0 = row[p_.offset + (adjacent ? 2 * i : i)];
      double& x1 = row[p_.offset + (adjacent ? 2 * i + 1 : i + n)];
      const double c = at[2 * i], s = at[2 * i + 1];
      const double y0 = x0 * c - x1 * s;
      x1 = x0 * s + x1 * c;
      x0 = y0;
    }
  }
  // As the op rope does.
  void apply(double* row, int64_t position) const {
    turn(row, position);
    for (size_t i = 0; i < p_.n_rot; ++i) row[p_.offset + i] *= magnitude();
  }

 private:
  double mix(double i) const {
    const auto pair = [&](double beta) {
      return p_.n_rot * std::log(p_.n_ctx_orig / (2 * M_PI * beta)) /
             (2 * std::log(double{p_.base}));
    };
    const double low = std::max(0.0, std::floor(pair(double{p_.beta_fast})));
    const double high = std::min(p_.n_rot - 1.0, std::ceil(pair(double{p_.beta_slow})));
    const double ramp = std::clamp((i - low) / std::max(high - low, 0.001), 0.0, 1.0);
    return double{p_.ext_factor} * (1 - ramp);
  }
  const std::vector<double>& angles(int64_t by) const {
    if (known_.size() > 4000) known_.clear();
    std::vector<double>& at = known_[by];
    for (size_t i = 0; at.size() < 2 * rates_.size(); ++i) {
      at.push_back(std::cos(static_cast<double>(by) * rates_[i]));
      at.push_back(std::sin(static_cast<double>(by) * rates_[i]));
    }
    return at;
  }
  mica_rope_params p_;
  std::vector<double> rates_;  // radians a position
  mutable std::unordered_map<int64_t, std::vector<double>> known_;
};

// Heads as the type keeps them, decoded again; zeros pad a head to whole blocks.
inline std::vector<float> stored(mica_dtype type, const float* x, uint32_t head_dim) {
  const mica_dtype_info& info = *mica_dtype_get(type);
  const size_t blocks = (head_dim + info.block_elems - 1) / info.block_elems;
  std::vector<float> row(blocks * info.block_elems), out;
  std::vector<uint8_t> bytes(blocks * info.block_bytes);
  for (uint32_t h = 0; h < kKvHeads; ++h) {
    std::fill(row.begin(), row.end(), 0.0f);
    std::copy_n(x + size_t{h} * head_dim, head_dim, row.begin());
    (void)mica_dtype_encode(type, row.data(), bytes.data(), row.size());
    (void)mica_dtype_decode(type, bytes.data(), row.data(), row.size());
    out.insert(out.end(), row.begin(), row.begin() + head_dim);
  }
  return out;
}

struct Rows {
  std::vector<float> k, v;  // [kKvHeads][head_dim], decoded
};

// A cell has position floor(base / div), and its K is rotated to floor(key_base / key_div).
struct Token {
  int64_t base, div, key_base, key_div;
  uint64_t input;  // which numbers it gives the layers
  std::array<std::shared_ptr<const Rows>, kLayers> rows;

  int64_t position() const { return base / div; }
  int64_t key() const { return key_base / key_div; }
  bool is_moved(mica_kv_keys keys) const {
    if (keys == MICA_KV_KEYS_UNROTATED) return key_div != INT32_MAX;
    return keys != MICA_KV_KEYS_NONE && (base != key_base || div != key_div);
  }
  // Is there no single number of positions by which a query could be rotated instead?
  bool needs_shift(mica_kv_keys keys) const {
    const bool turns =
        keys == MICA_KV_KEYS_RELATIVE && div == key_div && (key_base - base) % div == 0;
    return is_moved(keys) && !turns;
  }
};
using Line = std::vector<Token>;  // rising in position

// A layer's cells at their present positions.
struct Seen {
  std::vector<int64_t> position;
  std::vector<double> k;  // [cell][kKvHeads][head_dim]
  std::vector<const float*> v;
};

class Oracle {
 public:
  explicit Oracle(const Net& net) : net_(net) {
    for (const mica_rope_params& p : net.rope) rope_.emplace_back(p, net.factors);
  }
  const Rope& rope(uint32_t layer) const { return rope_[layer]; }

  Seen see(uint32_t layer, const Line& line, mica_kv_keys keys) const {
    Seen out;
    for (const Token& t : line) {
      const Rows& rows = *t.rows[net_.owner(layer)];
      out.position.push_back(t.position());
      out.v.push_back(rows.v.data());
      out.k.insert(out.k.end(), rows.k.begin(), rows.k.end());
      const int64_t by = keys == MICA_KV_KEYS_NONE ? 0 : t.position() - t.key();
      double* k = out.k.data() + out.k.size() - net_.kv_size();
      for (uint32_t h = 0; by != 0 && h < kKvHeads; ++h) rope(layer).turn(k + h * dim(), by);
    }
    return out;
  }

  // Attention of one head at `position`. Returns the sum of w * |V|, as the root of the mean square
  // over elements: what errors of sums are measured by.
  double attend(uint32_t layer, const Seen& seen, int64_t position, uint32_t head, const double* q,
                double* y) const {
    const uint32_t g = head / (kHeads / kKvHeads);
    std::vector<double> w(seen.position.size(), -INFINITY), sum(dim());
    double most = -INFINITY, total = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      if (!sees(layer, position, seen.position[i])) continue;
      const double* k = seen.k.data() + (i * kKvHeads + g) * dim();
      w[i] = 0;
      for (size_t d = 0; d < dim(); ++d) w[i] += q[d] * k[d];
      w[i] /= std::sqrt(static_cast<double>(dim()));
      most = std::max(most, w[i]);
    }
    std::fill_n(y, dim(), 0.0);
    for (size_t i = 0; i < w.size(); ++i) {
      if (w[i] == -INFINITY) continue;
      w[i] = std::exp(w[i] - most);
      total += w[i];
      for (size_t d = 0; d < dim(); ++d) {
        const double v = double{seen.v[i][g * dim() + d]};
        y[d] += w[i] * v;
        sum[d] += w[i] * std::fabs(v);
      }
    }
    double square = 0;
    for (size_t d = 0; d < dim() && total > 0; ++d) {
      y[d] /= total;
      square += sum[d] * sum[d] / (total * total);
    }
    return std::sqrt(square / static_cast<double>(dim()));
  }

 private:
  size_t dim() const { return net_.head_dim; }
  bool sees(uint32_t layer, int64_t query, int64_t cell) const {
    const mica_kv_layer& l = net_.layers[layer];
    return cell <= query && (l.window == 0 || cell > query - l.window || cell < l.n_first);
  }
  const Net& net_;
  std::vector<Rope> rope_;
};

}  // namespace mica::kv_test
