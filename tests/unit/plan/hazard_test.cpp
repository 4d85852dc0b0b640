// Barriers, checked against the bytes that units touch: none is missing in a model's plans, and
// each of them is needed, so that the checker is seen to find what is missing.
#include "tests/conformance/hazards.h"
#include "tests/unit/plan/tiny_session.h"

namespace mica::test {
namespace {

// The cpu backend, looking at every partition that is compiled.
struct Seen {
  uint32_t n_partitions = 0, n_barriers = 0;
  std::string hazard;                // the first found
  std::vector<uint32_t> not_missed;  // units whose barrier can go without a clash
};
Seen seen;

void look_at(const mica_b_partition& p) {
  ++seen.n_partitions;
  if (seen.hazard.empty()) seen.hazard = conformance::find_hazard(p);
  for (uint32_t i = 1; i < p.n_units; ++i) {
    if (p.units[i].barrier == 0) continue;
    ++seen.n_barriers;
    std::vector<mica_b_unit> units(p.units, p.units + p.n_units);
    units[i].barrier = 0;
    mica_b_partition without = p;
    without.units = units.data();
    if (conformance::find_hazard(without).empty()) seen.not_missed.push_back(i);
  }
}

const mica_backend* looking_backend() {
  static mica_backend table = [] {
    mica_backend b = *mica_backend_cpu();
    b.name = "looking";
    b.compile = [](mica_b_device* device, const mica_b_partition* p, mica_b_buffer* const* buffers,
                   mica_b_plan** out) {
      look_at(*p);
      return mica_backend_cpu()->compile(device, p, buffers, out);
    };
    return b;
  }();
  return &table;
}

TEST(Hazards, NoneInAModelAndEveryBarrierIsNeeded) {
  seen = Seen{};
  const Context context = make_context();
  ASSERT_EQ(mica_context_add_backend(context.get(), looking_backend()), MICA_OK);
  const Device device = open_device(context, "looking");
  ASSERT_NE(device, nullptr);
  const TinyModel model{TinyShape{}};
  const Weights weights = load_tiny(context, device, model);
  const TinySession session(context, device, model, weights.get(), {1, 16});
  EXPECT_EQ(seen.n_partitions, 2u);
  EXPECT_EQ(seen.hazard, "");
  EXPECT_GT(seen.n_barriers, 10u);
  EXPECT_TRUE(seen.not_missed.empty()) << seen.not_missed.size() << " of " << seen.n_barriers;
}

}  // namespace
}  // namespace mica::test
