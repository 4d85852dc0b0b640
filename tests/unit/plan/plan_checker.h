// An independent reading of a plan: what may not overlap does not, in time or in memory.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/plan/plan.h"

namespace mica::test {

struct Interval {
  uint32_t first = UINT32_MAX, last = 0;  // waves
};

template <class F>
void touches(const mica_plan& p, const mica_b_unit& u, const F& f) {
  const uint32_t one[] = {u.node};
  const bool region = u.region != MICA_B_NONE;
  const uint32_t* nodes = region ? p.regions[u.region].members : one;
  for (uint32_t i = 0; i < (region ? p.regions[u.region].n_members : 1); ++i) {
    const mica_b_node& n = p.nodes[nodes[i]];
    for (uint32_t k = 0; k < n.n_inputs; ++k)
      if (n.input[k] != MICA_B_NONE) f(p.roots[n.input[k]], false);
    f(p.roots[n.output], true);
  }
}

class PlanChecker {
 public:
  explicit PlanChecker(const mica_plan& p) : p_(p), lives_(p.values.size()) {
    for (uint32_t i = 0; i < p.units.size(); ++i) {
      if (i > 0 && p.units[i].barrier != 0) ++wave_;
      waves_.push_back(wave_);
      touches(p, p.units[i], [&](uint32_t v, bool write) {
        if (write) lives_[v].first = std::min(lives_[v].first, wave_);
        lives_[v].last = std::max(lives_[v].last, wave_);
      });
    }
    for (const mica::PlanNamed& o : p.outputs) lives_[p.roots[o.value]].last = UINT32_MAX;
  }
  void check() const {
    waves_are_independent();
    places_are_inside();
    for (uint32_t a = 1; a < p_.values.size(); ++a)
      for (uint32_t b = 1; b < p_.values.size(); ++b)
        if (a != b && is_temp(a) && is_temp(b)) pair(a, b);
    for (uint32_t u = 0; u < p_.units.size(); ++u) workspace(u);
  }
  uint32_t n_taken_over() const { return n_taken_over_; }

 private:
  bool is_temp(uint32_t v) const {
    return p_.roots[v] == v && p_.values[v].storage == MICA_B_TEMP && lives_[v].first != UINT32_MAX;
  }
  static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
  }
  void waves_are_independent() const {
    for (uint32_t i = 0; i < p_.units.size(); ++i)
      for (uint32_t j = 0; j < i; ++j) {
        if (waves_[i] != waves_[j]) continue;
        touches(p_, p_.units[i], [&](uint32_t v, bool write) {
          touches(p_, p_.units[j], [&](uint32_t w, bool also) {
            EXPECT_FALSE(v == w && (write || also)) << "units " << j << " and " << i;
          });
        });
      }
  }
  void places_are_inside() const {
    for (uint32_t v = 1; v < p_.values.size(); ++v) {
      const mica_b_value& x = p_.values[v];
      if (x.storage != MICA_B_TEMP) continue;
      const mica_b_value& root = p_.values[p_.roots[v]];
      EXPECT_LE(x.offset + x.bytes, p_.arena_bytes);
      EXPECT_GE(x.offset, root.offset);
      EXPECT_LE(x.offset + x.bytes, root.offset + root.bytes);
      EXPECT_EQ(root.offset % mica::kPlaceAlign, 0u);
    }
  }
  // b may lie on a only if it is written, by the one unit that reads a last, where the op allows
  // it.
  void pair(uint32_t a, uint32_t b) const {
    const mica_b_value &x = p_.values[a], &y = p_.values[b];
    if (!overlap(x.offset, x.bytes, y.offset, y.bytes)) return;
    const Interval &la = lives_[a], &lb = lives_[b];
    if (la.last < lb.first || lb.last < la.first) return;
    if (lb.last == la.first && la.first != la.last) return;  // the same pair the other way round
    EXPECT_EQ(la.last, lb.first) << "values " << a << " and " << b << " live at once";
    EXPECT_EQ(x.offset, y.offset);
    EXPECT_EQ(x.bytes, y.bytes);
    EXPECT_EQ(x.layout, y.layout);
    uint32_t readers = 0, writers = 0;
    for (uint32_t u = 0; u < p_.units.size(); ++u) {
      if (waves_[u] != lb.first) continue;
      const mica_b_node& n = p_.nodes[p_.units[u].node];
      const int32_t k = mica::find_op(n.op)->inplace;
      touches(p_, p_.units[u], [&](uint32_t v, bool write) {
        readers += v == a && !write;
        if (v != b || !write) return;
        ++writers;
        EXPECT_EQ(p_.units[u].region, MICA_B_NONE);
        EXPECT_GE(k, 0);
        EXPECT_EQ(n.input[k], a);
      });
    }
    EXPECT_EQ(readers, 1u);
    EXPECT_EQ(writers, 1u);
    ++n_taken_over_;
  }
  void workspace(uint32_t u) const {
    const mica_b_unit& unit = p_.units[u];
    if (unit.workspace_bytes == 0) return;
    EXPECT_LE(unit.workspace_offset + unit.workspace_bytes, p_.arena_bytes);
    for (uint32_t v = 1; v < p_.values.size(); ++v) {
      if (!is_temp(v) || lives_[v].first > waves_[u] || lives_[v].last < waves_[u]) continue;
      EXPECT_FALSE(overlap(unit.workspace_offset, unit.workspace_bytes, p_.values[v].offset,
                           p_.values[v].bytes));
    }
    for (uint32_t w = 0; w < u; ++w)
      if (waves_[w] == waves_[u] && p_.units[w].workspace_bytes != 0) {
        EXPECT_FALSE(overlap(unit.workspace_offset, unit.workspace_bytes,
                             p_.units[w].workspace_offset, p_.units[w].workspace_bytes));
      }
  }

  const mica_plan& p_;
  std::vector<Interval> lives_;
  std::vector<uint32_t> waves_;
  uint32_t wave_ = 0;
  mutable uint32_t n_taken_over_ = 0;
};

}  // namespace mica::test
