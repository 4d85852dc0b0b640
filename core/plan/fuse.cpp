// Regions: found by pattern or given by composite builders, offered to the device, made to units.
#include <algorithm>

#include "core/plan/fusion.h"
#include "core/plan/plan.h"

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

class Fuser {
 public:
  Fuser(mica_plan& p, mica_device* d)
      : plan(p), device(d), region_of(d->allocator()), place_of(d->allocator()),
        producer(d->allocator()), n_uses(d->allocator()), next_view(d->allocator()),
        first_reader(d->allocator()), readers(d->allocator()), first_writer(d->allocator()),
        writers(d->allocator()) {}

  [[nodiscard]] bool prepare();
  FusionView view() const {
    return {&plan.partition,   producer.data(),     n_uses.data(),
            plan.roots.data(), first_reader.data(), readers.data()};
  }
  uint32_t maker(uint32_t value) const { return producer[value]; }
  mica_status offer(const char* fusion, const uint32_t* members, uint32_t n);
  mica_status offer_match(const FusionDef& f, uint32_t node);
  [[nodiscard]] bool make_units();

 private:
  [[nodiscard]] bool list_users();
  bool free_to_take(const uint32_t* members, uint32_t n) const;
  bool can_stand(const uint32_t* members, uint32_t n, uint32_t place) const;
  uint32_t find_place(const uint32_t* members, uint32_t n) const;
  mica_status ask(const mica_b_region& region, char* reason, size_t capacity) const;
  void set_storage(uint32_t root, mica_b_storage storage);
  void hide_inner_values(const mica_b_region& r);
  void show_inner_values(const mica_b_region& r);
  mica_status refuse(const char* fusion, uint32_t node, const char* reason);

  mica_plan& plan;
  mica_device* device;
  Vec<uint32_t> region_of;  // per node: index of the claimed region, or MICA_B_NONE
  Vec<uint32_t> place_of;   // per node: itself, or the member in whose place its region runs
  Vec<uint32_t> producer;   // per value
  Vec<uint32_t> n_uses;
  Vec<uint32_t> next_view;              // a chain from each root through its views; 0 ends it
  Vec<uint32_t> first_reader, readers;  // see FusionView
  Vec<uint32_t> first_writer, writers;  // the same of the nodes that make or write a root
};

// Lists by root, without a scan per value: counted, then filled from the end.
bool Fuser::list_users() {
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
  uint32_t n_reads = 0;
  const auto each_read = [this](uint32_t i, const auto& f) {
    const mica_b_node& node = plan.nodes[i];
    for (uint32_t k = 0; k < node.n_inputs; ++k)
      if (node.input[k] != MICA_B_NONE) f(plan.roots[node.input[k]]);
  };
  for (uint32_t i = 0; i < plan.nodes.size(); ++i) {
    each_read(i, [&](uint32_t root) { ++first_reader[root], ++n_reads; });
    ++first_writer[plan.roots[plan.nodes[i].output]];
  }
  if (!readers.resize(n_reads)) return false;
  for (size_t v = 1; v <= n_values; ++v) {
    first_reader[v] += first_reader[v - 1];
    first_writer[v] += first_writer[v - 1];
  }
  for (auto i = static_cast<uint32_t>(plan.nodes.size()); i-- > 0;) {
    each_read(i, [&](uint32_t root) { readers[--first_reader[root]] = i; });
    writers[--first_writer[plan.roots[plan.nodes[i].output]]] = i;
  }
  return true;
}

bool Fuser::prepare() {
  const size_t n_values = plan.values.size();
  if (!producer.resize(n_values) || !n_uses.resize(n_values) ||
      !region_of.resize(plan.nodes.size()) || !place_of.resize(plan.nodes.size()) ||
      !plan.regions.reserve(plan.nodes.size() + 1) ||
      !plan.members.reserve(plan.nodes.size() + kMaxFusionMembers))
    return false;  // reserved up front: regions keep pointers into members
  for (uint32_t& r : region_of) r = MICA_B_NONE;
  for (uint32_t i = 0; i < place_of.size(); ++i) place_of[i] = i;
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
  return list_users();
}

bool Fuser::free_to_take(const uint32_t* members, uint32_t n) const {
  for (uint32_t i = 0; i < n; ++i)
    if (region_of[members[i]] != MICA_B_NONE) return false;
  return true;
}

// A region runs in the place of one of its members; the others move there. That is right when every
// other node stays on the side of each member it conflicts with, where both now stand. Two nodes
// conflict when one makes or writes what the other uses.
bool Fuser::can_stand(const uint32_t* members, uint32_t n, uint32_t place) const {
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t member = members[i];
    const auto all_stay = [&](const Vec<uint32_t>& first, const Vec<uint32_t>& list,
                              uint32_t root) {
      for (uint32_t at = first[root]; at < first[root + 1]; ++at) {
        const uint32_t other = list[at];
        if ((other < member) != (place_of[other] < place) &&
            std::find(members, members + n, other) == members + n)
          return false;
      }
      return true;
    };
    const mica_b_node& node = plan.nodes[member];
    const uint32_t made = plan.roots[node.output];
    if (!all_stay(first_reader, readers, made) || !all_stay(first_writer, writers, made))
      return false;
    for (uint32_t k = 0; k < node.n_inputs; ++k)
      if (node.input[k] != MICA_B_NONE &&
          !all_stay(first_writer, writers, plan.roots[node.input[k]]))
        return false;
  }
  return true;
}

// The last place that will do: what a member makes is wanted late. MICA_B_NONE: there is none.
uint32_t Fuser::find_place(const uint32_t* members, uint32_t n) const {
  for (uint32_t limit = UINT32_MAX;;) {
    uint32_t place = MICA_B_NONE;
    for (uint32_t i = 0; i < n; ++i)
      if (members[i] < limit && (place == MICA_B_NONE || members[i] > place)) place = members[i];
    if (place == MICA_B_NONE || can_stand(members, n, place)) return place;
    limit = place;
  }
}

void Fuser::set_storage(uint32_t root, mica_b_storage storage) {
  for (uint32_t v = root; v != 0; v = next_view[v])
    if (producer[v] != MICA_B_NONE) plan.values[v].storage = storage;
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
    if (inside > 0 && inside == n_uses[root]) set_storage(root, MICA_B_UNPLACED);
  }
}

void Fuser::show_inner_values(const mica_b_region& r) {
  for (uint32_t i = 0; i < r.n_members; ++i) {
    const uint32_t root = plan.roots[plan.nodes[r.members[i]].output];
    if (plan.values[root].storage == MICA_B_UNPLACED) set_storage(root, MICA_B_TEMP);
  }
}

mica_status Fuser::ask(const mica_b_region& region, char* reason, size_t capacity) const {
  for (uint32_t i = 0; i < region.n_members; ++i)
    if (!args_known(device, plan.nodes[region.members[i]], reason, capacity))
      return MICA_UNSUPPORTED;
  return device->backend->claims(device->handle, &plan.partition, plan.partition.n_regions - 1,
                                 reason, capacity);
}

// One line a fusion and reason, however many regions it keeps from being made; of reasons that all
// differ, only the latest are compared.
mica_status Fuser::refuse(const char* fusion, uint32_t node, const char* reason) {
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

mica_status Fuser::offer(const char* fusion, const uint32_t* members, uint32_t n) {
  if (n == 0 || !free_to_take(members, n)) return MICA_OK;
  const uint32_t place = find_place(members, n);
  if (place == MICA_B_NONE)
    return refuse(fusion, members[0], "a node between them must run after some, before others");
  const size_t first = plan.members.size();
  if (!plan.members.append(members, n) ||
      !plan.regions.push({fusion, n, plan.members.data() + first, 0}))
    return device->error().out_of_memory("plan");
  plan.partition.n_regions = static_cast<uint32_t>(plan.regions.size());
  plan.partition.regions = plan.regions.data();
  mica_b_region& region = plan.regions.back();
  hide_inner_values(region);
  char reason[256] = "";
  if (ask(region, reason, sizeof reason) == MICA_OK) {
    region.claimed = 1;
    for (uint32_t i = 0; i < n; ++i) {
      region_of[members[i]] = plan.partition.n_regions - 1;
      place_of[members[i]] = place;
    }
    return MICA_OK;
  }
  show_inner_values(region);
  plan.regions.pop();
  plan.partition.n_regions -= 1;
  for (uint32_t i = 0; i < n; ++i) plan.members.pop();
  return refuse(fusion, members[0], reason);
}

mica_status Fuser::offer_match(const FusionDef& f, uint32_t node) {
  uint32_t members[kMaxFusionMembers];
  const char* near_miss = nullptr;
  const uint32_t n = f.match(view(), node, members, &near_miss);
  if (n > 0 || near_miss == nullptr || region_of[node] != MICA_B_NONE)
    return offer(f.name, members, n);
  return refuse(f.name, node, near_miss);
}

bool Fuser::make_units() {
  for (uint32_t i = 0; i < plan.nodes.size(); ++i) {
    if (place_of[i] == i && !plan.units.push({i, region_of[i], 0, 0, 0, 0})) return false;
  }
  return true;
}

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
    if (n == wanted) MICA_TRY(fuser.offer(region.fusion, members, n));
  }
  return MICA_OK;
}

bool packed(const mica_b_value& v) {
  int64_t stride = v.stride[0];
  const mica_dtype_info& info = find_dtype(static_cast<uint32_t>(v.dtype))->info;
  for (int i = 0; i < 4; ++i) {
    if (v.dim[i] != 1 && v.stride[i] != stride) return false;
    stride *= i == 0 ? div_up(v.dim[0], info.block_elems) : v.dim[i];
  }
  return true;
}

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

mica_status claim_regions(mica_plan& p, const mica_graph& g, mica_device* device, bool unfused) {
  Fuser fuser(p, device);
  if (!fuser.prepare()) return device->error().out_of_memory("plan");
  if (!unfused) {
    MICA_TRY(offer_patterns(fuser, static_cast<uint32_t>(p.nodes.size())));
    MICA_TRY(offer_composites(fuser, g));
  }
  return fuser.make_units() ? MICA_OK : device->error().out_of_memory("plan");
}

}  // namespace mica
