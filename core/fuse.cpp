// Regions: found by pattern or given by composite builders, offered to the device, made to units.
#include "core/fusion.h"
#include "core/plan.h"

namespace mica {

#define MICA_FUSION(name) extern const FusionDef fusion_##name;
#include "fusions.def"
#undef MICA_FUSION

namespace {

const FusionDef* const kFusions[] = {
#define MICA_FUSION(name) &fusion_##name,
#include "fusions.def"
#undef MICA_FUSION
    nullptr};

struct Fuser {
  Fuser(mica_plan& p, mica_device* d)
      : plan(p), device(d), region_of(d->allocator()), producer(d->allocator()),
        n_uses(d->allocator()) {}
  mica_plan& plan;
  mica_device* device;
  Vec<uint32_t> region_of;  // per node: index of the claimed region, or MICA_B_NONE
  Vec<uint32_t> producer;   // per value
  Vec<uint32_t> n_uses;

  [[nodiscard]] bool prepare();
  mica_status offer(const char* fusion, const uint32_t* members, uint32_t n);
  [[nodiscard]] bool make_units();

 private:
  bool free_to_take(const uint32_t* members, uint32_t n) const;
  bool can_wait(const uint32_t* members, uint32_t n) const;
  void hide_inner_values(const mica_b_region& r);
  bool is_member(const uint32_t* members, uint32_t n, uint32_t node) const {
    for (uint32_t i = 0; i < n; ++i)
      if (members[i] == node) return true;
    return false;
  }
};

bool Fuser::prepare() {
  const size_t n_values = plan.values.size();
  if (!producer.resize(n_values) || !n_uses.resize(n_values) ||
      !region_of.resize(plan.nodes.size()))
    return false;
  for (uint32_t& r : region_of) r = MICA_B_NONE;
  for (uint32_t& m : producer) m = MICA_B_NONE;
  for (uint32_t i = 0; i < plan.nodes.size(); ++i) producer[plan.nodes[i].output] = i;
  // Views are resolved: a view's maker is its root's; uses of a view are uses of its root.
  for (uint32_t v = 1; v < n_values; ++v)
    if (plan.values[v].storage == MICA_B_TEMP && plan.roots[v] != v)
      producer[v] = producer[plan.roots[v]];
  for (const mica_b_node& node : plan.nodes)
    for (uint32_t k = 0; k < node.n_inputs; ++k)
      if (node.input[k] != MICA_B_NONE) ++n_uses[plan.roots[node.input[k]]];
  for (const PlanNamed& o : plan.outputs) ++n_uses[plan.roots[o.value]];
  for (uint32_t v = 1; v < n_values; ++v) n_uses[v] = n_uses[plan.roots[v]];
  return true;
}

bool Fuser::free_to_take(const uint32_t* members, uint32_t n) const {
  for (uint32_t i = 0; i < n; ++i)
    if (region_of[members[i]] != MICA_B_NONE) return false;
  return true;
}

// A region runs where its last member stood. The earlier members wait until then, which is right
// when no node in between reads what they make, nor writes memory that they read or write.
bool Fuser::can_wait(const uint32_t* members, uint32_t n) const {
  for (uint32_t between = members[0] + 1; between < members[n - 1]; ++between) {
    if (is_member(members, n, between)) continue;
    const mica_b_node& other = plan.nodes[between];
    for (uint32_t i = 0; i < n && members[i] < between; ++i) {
      const mica_b_node& mine = plan.nodes[members[i]];
      if (plan.roots[mine.output] == plan.roots[other.output]) return false;
      for (uint32_t k = 0; k < other.n_inputs; ++k)
        if (other.input[k] != MICA_B_NONE && plan.roots[other.input[k]] == plan.roots[mine.output])
          return false;
      for (uint32_t k = 0; k < mine.n_inputs; ++k)
        if (mine.input[k] != MICA_B_NONE && plan.roots[mine.input[k]] == plan.roots[other.output])
          return false;
    }
  }
  return true;
}

// Values that only members use need no memory.
void Fuser::hide_inner_values(const mica_b_region& r) {
  for (uint32_t i = 0; i < r.n_members; ++i) {
    const uint32_t root = plan.roots[plan.nodes[r.members[i]].output];
    if (plan.values[root].storage != MICA_B_TEMP) continue;
    uint32_t inside = 0;
    for (uint32_t j = 0; j < r.n_members; ++j)
      for (uint32_t k = 0; k < plan.nodes[r.members[j]].n_inputs; ++k) {
        const uint32_t v = plan.nodes[r.members[j]].input[k];
        inside += v != MICA_B_NONE && plan.roots[v] == root ? 1 : 0;
      }
    if (inside != n_uses[root]) continue;
    for (uint32_t v = 1; v < plan.values.size(); ++v)
      if (plan.roots[v] == root) plan.values[v].storage = MICA_B_UNPLACED;
  }
}

mica_status Fuser::offer(const char* fusion, const uint32_t* members, uint32_t n) {
  Error& error = device->error();
  if (n == 0 || !free_to_take(members, n) || !can_wait(members, n)) return MICA_OK;
  const size_t first = plan.members.size();
  if (!plan.members.append(members, n) ||
      !plan.regions.push({fusion, n, plan.members.data() + first, 0}))
    return error.out_of_memory("plan");
  plan.partition.n_regions = static_cast<uint32_t>(plan.regions.size());
  plan.partition.regions = plan.regions.data();
  mica_b_region& region = plan.regions.back();
  char reason[256] = "";
  const mica_status status = device->backend->claims(
      device->handle, &plan.partition, plan.partition.n_regions - 1, reason, sizeof reason);
  if (status == MICA_OK) {
    region.claimed = 1;
    for (uint32_t i = 0; i < n; ++i)
      region_of[members[i]] = static_cast<uint32_t>(plan.regions.size() - 1);
    hide_inner_values(region);
    return MICA_OK;
  }
  char line[400];
  Writer w(line, sizeof line);
  w.put(fusion, " at ").put(quoted(plan.nodes[members[n - 1]].name));
  w.put(": ", static_cast<const char*>(reason), "\n");
  const size_t length = w.size() < sizeof line ? w.size() : sizeof line - 1;
  return plan.refusals.append(line, length) ? MICA_OK : error.out_of_memory("plan");
}

bool Fuser::make_units() {
  for (uint32_t i = 0; i < plan.nodes.size(); ++i) {
    const uint32_t r = region_of[i];
    if (r != MICA_B_NONE) {
      const mica_b_region& region = plan.regions[r];
      if (region.members[region.n_members - 1] != i) continue;
    }
    if (!plan.units.push({i, r, 0, 0, 0, 0})) return false;
  }
  return true;
}

}  // namespace

mica_status claim_regions(mica_plan& p, const mica_graph& g, mica_device* device, bool unfused) {
  Error& error = device->error();
  Fuser fuser(p, device);
  // Reserved up front: regions keep pointers into members.
  const size_t most = p.nodes.size() * 4 + kMaxFusionMembers;
  if (!fuser.prepare() || !p.members.reserve(most * 4)) return error.out_of_memory("plan");
  const FusionView view{&p.partition, fuser.producer.data(), fuser.n_uses.data()};
  for (const FusionDef* const* f = kFusions; !unfused && *f != nullptr; ++f)
    for (uint32_t i = 0; i < p.nodes.size(); ++i) {
      uint32_t members[kMaxFusionMembers];
      const uint32_t n = (*f)->match(view, i, members);
      if (p.members.size() + n <= most * 4) MICA_TRY(fuser.offer((*f)->name, members, n));
    }
  // A composite's nodes are contiguous in the graph; find them by their outputs.
  for (size_t r = 0; !unfused && r < g.regions.size(); ++r) {
    uint32_t members[kMaxFusionMembers];
    uint32_t n = 0, wanted = 0;
    for (uint32_t i = g.regions[r].first; i < g.regions[r].end && n < kMaxFusionMembers; ++i) {
      if ((g.nodes[i].op->flags & kOpView) != 0) continue;
      ++wanted;
      const uint32_t node = fuser.producer[g.nodes[i].out];
      if (node != MICA_B_NONE) members[n++] = node;
    }
    if (n == wanted && p.members.size() + n <= most * 4)
      MICA_TRY(fuser.offer(g.regions[r].fusion, members, n));
  }
  return fuser.make_units() ? MICA_OK : error.out_of_memory("plan");
}

}  // namespace mica
