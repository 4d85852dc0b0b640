// Regions: found by pattern or given by composite builders, offered to the device, made to units.
#include <algorithm>
#include <numeric>

#include "core/plan/fusion.h"
#include "core/plan/session.h"

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

using Nodes = std::span<const uint32_t>;

class Fuser {
 public:
  Fuser(mica_plan& p, const mica_allocator& a)
      : plan(p), device(p.session->device), region_of(a), place_of(a), producer(a), n_uses(a),
        next_view(a), first_reader(a), readers(a), first_writer(a), writers(a) {}

  FusionView view() const {
    return {&plan.partition,   producer.data(),     n_uses.data(),
            plan.roots.data(), first_reader.data(), readers.data()};
  }
  uint32_t maker(uint32_t value) const { return producer[value]; }

  [[nodiscard]] bool prepare() {
    const size_t n_values = plan.values.size(), n_nodes = plan.nodes.size();
    if (!producer.resize(n_values) || !n_uses.resize(n_values) || !region_of.resize(n_nodes) ||
        !place_of.resize(n_nodes) || !plan.regions.reserve(n_nodes + 1) ||
        !plan.members.reserve(n_nodes + kMaxFusionMembers) || !list_users())
      return false;  // reserved up front: regions keep pointers into members
    std::fill(region_of.begin(), region_of.end(), MICA_B_NONE);
    std::iota(place_of.begin(), place_of.end(), 0u);
    std::fill(producer.begin(), producer.end(), MICA_B_NONE);
    for (uint32_t i = 0; i < n_nodes; ++i) producer[plan.nodes[i].output] = i;
    // Views are resolved: a view's maker is its root's; uses of a view are uses of its root.
    for (const PlanNamed& o : plan.outputs) ++n_uses[plan.roots[o.value]];
    for (uint32_t v = 1; v < n_values; ++v) {
      const uint32_t root = plan.roots[v];
      if (plan.values[v].storage == MICA_B_TEMP && root != v) producer[v] = producer[root];
      n_uses[v] = root != v ? n_uses[root] : n_uses[v] + first_reader[v + 1] - first_reader[v];
    }
    return true;
  }

  mica_status offer(const char* fusion, Nodes members) {
    for (const uint32_t m : members)
      if (region_of[m] != MICA_B_NONE) return MICA_OK;
    if (members.empty()) return MICA_OK;
    const uint32_t place = find_place(members);
    if (place == MICA_B_NONE)
      return refuse(fusion, members[0], "a node between them must run after some, before others");
    const auto n = static_cast<uint32_t>(members.size());
    const size_t first = plan.members.size();
    if (!plan.members.append(members.data(), n) ||
        !plan.regions.push({fusion, n, plan.members.data() + first, 0}))
      return device->error().out_of_memory("plan");
    plan.partition.n_regions = static_cast<uint32_t>(plan.regions.size());
    plan.partition.regions = plan.regions.data();
    move_inner_values(members, MICA_B_TEMP, MICA_B_UNPLACED);
    char reason[256] = "";
    if (ask(members, reason, sizeof reason) == MICA_OK) {
      plan.regions.back().claimed = 1;
      for (const uint32_t m : members) {
        region_of[m] = plan.partition.n_regions - 1;
        place_of[m] = place;
      }
      return MICA_OK;
    }
    move_inner_values(members, MICA_B_UNPLACED, MICA_B_TEMP);
    plan.regions.pop();
    plan.partition.n_regions -= 1;
    (void)plan.members.resize(first);
    return refuse(fusion, members[0], reason);
  }

  mica_status offer_match(const FusionDef& f, uint32_t node) {
    uint32_t members[kMaxFusionMembers];
    const char* near_miss = nullptr;
    const uint32_t n = f.match(view(), node, members, &near_miss);
    if (n > 0 || near_miss == nullptr || region_of[node] != MICA_B_NONE)
      return offer(f.name, {members, n});
    return refuse(f.name, node, near_miss);
  }

  [[nodiscard]] bool make_units() {
    for (uint32_t i = 0; i < plan.nodes.size(); ++i) {
      if (place_of[i] == i && !plan.units.push({i, region_of[i], 0, 0, 0, 0})) return false;
    }
    return true;
  }

 private:
  // Lists by root, without a scan per value: counted, then filled from the end.
  [[nodiscard]] bool list_users() {
    const size_t n_values = plan.values.size();
    if (!next_view.resize(n_values) || !first_reader.resize(n_values + 1) ||
        !first_writer.resize(n_values + 1) || !writers.resize(plan.nodes.size()))
      return false;
    for (uint32_t v = 1; v < n_values; ++v) {
      const uint32_t root = plan.roots[v];
      if (root == v) continue;
      next_view[v] = next_view[root];
      next_view[root] = v;
    }
    for (const mica_b_node& node : plan.nodes) {
      plan.each_read(node, [&](uint32_t root) { ++first_reader[root]; });
      ++first_writer[plan.roots[node.output]];
    }
    std::partial_sum(first_reader.begin(), first_reader.end(), first_reader.begin());
    std::partial_sum(first_writer.begin(), first_writer.end(), first_writer.begin());
    if (!readers.resize(first_reader[n_values])) return false;
    for (auto i = static_cast<uint32_t>(plan.nodes.size()); i-- > 0;) {
      plan.each_read(plan.nodes[i], [&](uint32_t root) { readers[--first_reader[root]] = i; });
      writers[--first_writer[plan.roots[plan.nodes[i].output]]] = i;
    }
    return true;
  }

  // A region runs in the place of one of its members; the others move there. That is right when
  // every other node stays on the side of each member it conflicts with, where both now stand. Two
  // nodes conflict when one makes or writes what the other uses.
  bool can_stand(Nodes members, uint32_t place) const {
    bool all_stay = true;
    for (const uint32_t member : members) {
      const auto check = [&](const Vec<uint32_t>& first, const Vec<uint32_t>& list, uint32_t root) {
        for (uint32_t at = first[root]; all_stay && at < first[root + 1]; ++at)
          all_stay = (list[at] < member) == (place_of[list[at]] < place) ||
                     std::find(members.begin(), members.end(), list[at]) != members.end();
      };
      const mica_b_node& node = plan.nodes[member];
      check(first_reader, readers, plan.roots[node.output]);
      check(first_writer, writers, plan.roots[node.output]);
      plan.each_read(node, [&](uint32_t root) { check(first_writer, writers, root); });
    }
    return all_stay;
  }

  // The last place that will do: what a member makes is wanted late. MICA_B_NONE: there is none.
  uint32_t find_place(Nodes members) const {
    for (uint32_t limit = UINT32_MAX;;) {
      uint32_t place = MICA_B_NONE;
      for (const uint32_t m : members)
        if (m < limit && (place == MICA_B_NONE || m > place)) place = m;
      if (place == MICA_B_NONE || can_stand(members, place)) return place;
      limit = place;
    }
  }

  // Values that only members use need no memory: hidden for an offer, shown if it is refused.
  void move_inner_values(Nodes members, mica_b_storage from, mica_b_storage to) {
    for (const uint32_t maker : members) {
      const uint32_t root = plan.roots[plan.nodes[maker].output];
      if (plan.values[root].storage != from) continue;
      uint32_t inside = 0;
      for (const uint32_t m : members)
        plan.each_read(plan.nodes[m], [&](uint32_t read) { inside += read == root ? 1 : 0; });
      for (uint32_t v = root; inside > 0 && inside == n_uses[root] && v != 0; v = next_view[v])
        if (producer[v] != MICA_B_NONE) plan.values[v].storage = to;
    }
  }

  mica_status ask(Nodes members, char* reason, size_t capacity) const {
    for (const uint32_t m : members)
      if (!args_known(device, plan.nodes[m], reason, capacity)) return MICA_UNSUPPORTED;
    return device->backend->claims(device->handle, &plan.partition, plan.partition.n_regions - 1,
                                   reason, capacity);
  }

  // One line a fusion and reason, however many regions it keeps from being made; of reasons that
  // all differ, only the latest are compared.
  mica_status refuse(const char* fusion, uint32_t node, const char* reason) {
    constexpr size_t kCompared = 64;
    const size_t n = plan.refusals.size();
    for (size_t i = n > kCompared ? n - kCompared : 0; i < n; ++i) {
      PlanRefusal& r = plan.refusals[i];
      if (std::strcmp(r.fusion, fusion) != 0 ||
          std::strcmp(plan.reasons.data() + r.reason, reason) != 0)
        continue;
      ++r.n;
      return MICA_OK;
    }
    const PlanRefusal refusal = {fusion, plan.nodes[node].name, plan.reasons.size(), 1};
    return plan.refusals.push(refusal) && plan.reasons.append(reason, std::strlen(reason) + 1)
               ? MICA_OK
               : device->error().out_of_memory("plan");
  }

  mica_plan& plan;
  const mica_device* device;
  Vec<uint32_t> region_of;  // per node: index of the claimed region, or MICA_B_NONE
  Vec<uint32_t> place_of;   // per node: itself, or the member in whose place its region runs
  Vec<uint32_t> producer;   // per value
  Vec<uint32_t> n_uses;
  Vec<uint32_t> next_view;              // a chain from each root through its views; 0 ends it
  Vec<uint32_t> first_reader, readers;  // see FusionView
  Vec<uint32_t> first_writer, writers;  // the same of the nodes that make or write a root
};

// The highest rank below `limit` that a pattern has; INT64_MIN: there is none.
int64_t next_rank(int64_t limit) {
  int64_t rank = INT64_MIN;
  for (const FusionDef* const* f = kFusions; *f != nullptr; ++f)
    if ((*f)->rank < limit) rank = std::max<int64_t>(rank, (*f)->rank);
  return rank;
}

mica_status offer_patterns(Fuser& fuser, uint32_t n_nodes) {
  for (int64_t rank = next_rank(INT64_MAX); rank != INT64_MIN; rank = next_rank(rank))
    for (const FusionDef* const* f = kFusions; *f != nullptr; ++f)
      for (uint32_t i = 0; (*f)->rank == rank && i < n_nodes; ++i)
        MICA_TRY(fuser.offer_match(**f, i));
  return MICA_OK;
}

// A composite's nodes are contiguous in the graph; found by their outputs. One of which a part is
// dead is not offered.
mica_status offer_composites(Fuser& fuser, const mica_graph& g) {
  for (const GraphRegion& region : g.regions) {
    uint32_t members[kMaxFusionMembers];
    uint32_t n = 0, wanted = 0;
    for (uint32_t i = region.first; i < region.end && n < kMaxFusionMembers; ++i) {
      if ((g.nodes[i].op->flags & kOpView) != 0) continue;
      ++wanted;
      const uint32_t node = fuser.maker(g.nodes[i].out);
      if (node != MICA_B_NONE) members[n++] = node;
    }
    if (n == wanted) MICA_TRY(fuser.offer(region.fusion, {members, n}));
  }
  return MICA_OK;
}

bool packed(const mica_b_value& v) { return contiguous(v.dtype, v.dim, v.stride); }

}  // namespace

uint32_t FusionView::reader(uint32_t v, uint32_t from) const {
  const uint32_t* end = readers + first_reader[roots[v] + 1];
  const uint32_t* at = std::lower_bound(readers + first_reader[roots[v]], end, from);
  return at != end ? *at : MICA_B_NONE;
}

uint32_t FusionView::only_reader(uint32_t i) const {
  const uint32_t v = node(i).output;
  return n_uses[v] == 1 ? reader(v, i + 1) : MICA_B_NONE;
}

bool FusionView::takes_whole(uint32_t i, uint32_t k, uint32_t from) const {
  const uint32_t v = node(i).input[k], whole = node(from).output;
  if (v == whole) return true;
  if (v == MICA_B_NONE || roots[v] != whole) return false;
  const mica_b_value &a = value(v), &b = value(whole);
  return a.offset == b.offset && a.bytes == b.bytes && packed(a) && packed(b);
}

bool FusionView::same_shape(uint32_t a, uint32_t b) const {
  return std::equal(value(a).dim, value(a).dim + 4, value(b).dim);
}

mica_status claim_regions(mica_plan& p, const mica_graph& g) {
  Fuser fuser(p, p.session->allocator());
  if (!fuser.prepare()) return p.session->error().out_of_memory("plan");
  if (p.session->params.unfused == 0) {
    MICA_TRY(offer_patterns(fuser, static_cast<uint32_t>(p.nodes.size())));
    MICA_TRY(offer_composites(fuser, g));
  }
  return fuser.make_units() ? MICA_OK : p.session->error().out_of_memory("plan");
}

}  // namespace mica
