// Placing nodes on fallback devices, and cutting a plan into segments.
#include "core/plan/session.h"

namespace mica {
namespace {

bool uses_state(const mica_plan& p, const mica_b_node& n) {
  if ((find_op(n.op)->flags & kOpState) != 0) return true;
  for (uint32_t k = 0; k < n.n_inputs; ++k)
    if (n.input[k] != MICA_B_NONE && p.values[n.input[k]].storage == MICA_B_STATE) return true;
  return false;
}

// Makes one island, node by node; a node that turns out not to run there is taken back.
class Builder {
 public:
  Builder(mica_plan& p, const mica_graph& g, Island& island)
      : plan_(p), graph_(g), island_(island), n_values_(island.values.size()),
        n_nodes_(island.nodes.size()), n_weights_(island.weights.size()),
        arena_bytes_(island.arena_bytes) {}

  // `need` gets what the device answers.
  mica_status add(uint32_t i_node, mica_b_need& need, char* reason, size_t capacity) {
    const mica_status status = try_add(i_node, need, reason, capacity);
    if (status != MICA_OK) take_back();
    return status;
  }

 private:
  mica_status try_add(uint32_t i_node, mica_b_need& need, char* reason, size_t capacity);
  mica_status add_value(uint32_t origin, bool made, uint32_t& out, Writer& reason);
  mica_status add_weight(uint32_t origin, mica_b_value& v, Writer& reason);
  mica_status reserve_arena(uint64_t bytes, uint64_t& out_offset);
  void take_back();
  void refresh();
  mica_session* session() const { return plan_.session; }
  mica_status no_memory() const { return session()->error().out_of_memory("fallback"); }

  mica_plan& plan_;
  const mica_graph& graph_;
  Island& island_;
  const size_t n_values_, n_nodes_, n_weights_;
  const uint64_t arena_bytes_;
};

mica_status Builder::reserve_arena(uint64_t bytes, uint64_t& out_offset) {
  out_offset = island_.arena_bytes;
  uint64_t end = 0;
  if (!checked_add(out_offset, bytes, end) || !checked_align(end, kPlaceAlign, island_.arena_bytes))
    return session()->error().fail(MICA_OUT_OF_MEMORY, "a tensor is too large");
  return MICA_OK;
}

mica_status Builder::add_weight(uint32_t origin, mica_b_value& v, Writer& reason) {
  const GraphValue& g = graph_.values[origin];
  mica_weights* const weights = graph_.weights[g.holder];
  mica_session* s = session();
  WeightCopy* copy = nullptr;
  for (WeightCopy* c : s->copies)
    if (c->weights == weights && c->entry == g.source && c->device == island_.device) copy = c;
  if (copy == nullptr) {
    WeightCopy fresh;
    fresh.weights = weights;
    fresh.entry = g.source;
    fresh.device = island_.device;
    fresh.value = weights->entries[g.source].value;
    fresh.value.offset = 0;
    const mica_device* d = island_.device;
    MICA_TRY(d->backend->weight_layout(d->handle, &fresh.value, &fresh.value.layout,
                                       &fresh.value.bytes, &fresh.granule_rows));
    copy = create<WeightCopy>(s->allocator(), std::move(fresh));
    if (copy == nullptr || !s->copies.push(copy)) {
      destroy(s->allocator(), copy);
      return no_memory();
    }
  }
  uint32_t i = 0;
  while (i < island_.weights.size() && island_.weights[i] != copy) ++i;
  if (i == island_.weights.size()) {
    ++copy->n_users;
    if (!island_.weights.push(copy)) {
      drop_weight_copy(s, copy);
      return no_memory();
    }
  }
  if (copy->value.layout != 0 && plan_.roots[origin] != origin) {
    const Text& name = weights->entries[g.source].name;
    reason.put("it reads a view of weight ", quoted(name.c_str()),
               ", which the device keeps in a layout of its own");
    return MICA_UNSUPPORTED;
  }
  v.buffer = kFirstWeightsBuffer + i;
  v.layout = copy->value.layout;
  v.offset = static_cast<uint64_t>(g.offset);
  if (g.offset == 0) v.bytes = copy->value.bytes;
  return MICA_OK;
}

// Temporaries have no place in the plan yet: offsets are those of views in their roots.
mica_status Builder::add_value(uint32_t origin, bool made, uint32_t& out, Writer& reason) {
  const uint32_t root = plan_.roots[origin];
  const mica_b_value* base = nullptr;  // the root, when the island makes it
  for (uint32_t i = 1; i < island_.values.size(); ++i) {
    out = i;
    if (island_.flows[i].origin == origin) return MICA_OK;
    if (island_.flows[i].origin == root && island_.flows[i].made) base = &island_.values[i];
  }
  mica_b_value v = plan_.values[origin];
  bool moves = false;
  if (v.storage == MICA_B_WEIGHT) {
    MICA_TRY(add_weight(origin, v, reason));
  } else {
    v.storage = MICA_B_TEMP;
    v.buffer = kArenaBuffer;
    if (base != nullptr) {
      v.offset += base->offset;
    } else {
      moves = true;
      MICA_TRY(reserve_arena(v.bytes, v.offset));
      if (v.bytes > island_.staging_bytes) island_.staging_bytes = v.bytes;
    }
  }
  out = static_cast<uint32_t>(island_.values.size());
  return island_.flows.push({origin, made, moves}) && island_.values.push(v) ? MICA_OK
                                                                             : no_memory();
}

void Builder::refresh() {
  mica_b_partition& b = island_.partition;
  b = plan_.partition;  // for its variant
  b.n_values = static_cast<uint32_t>(island_.values.size());
  b.n_nodes = b.n_units = static_cast<uint32_t>(island_.units.size());
  b.n_regions = 0;
  b.n_extents = static_cast<uint32_t>(island_.extents.size());
  b.n_buffers = kFirstWeightsBuffer + static_cast<uint32_t>(island_.weights.size());
  b.values = island_.values.data();
  b.nodes = island_.nodes.data();
  b.regions = nullptr;
  b.units = island_.units.data();
  b.extents = island_.extents.data();
}

mica_status Builder::try_add(uint32_t i_node, mica_b_need& need, char* reason, size_t capacity) {
  if (island_.values.empty()) {
    if (!island_.values.resize(1) || !island_.flows.resize(1)) return no_memory();
    for (const mica_b_extent& e : plan_.extents)
      if (!island_.extents.push({e.max, island_.extents.size() * sizeof(int32_t)}))
        return no_memory();
  }
  mica_b_node node = plan_.nodes[i_node];
  Writer w(reason, capacity);
  for (uint32_t k = 0; k < node.n_inputs; ++k)
    if (node.input[k] != MICA_B_NONE) MICA_TRY(add_value(node.input[k], false, node.input[k], w));
  MICA_TRY(add_value(node.output, true, node.output, w));
  const auto i = static_cast<uint32_t>(island_.nodes.size());
  if (!island_.nodes.push(node) || !island_.units.push({i, MICA_B_NONE, 1, 0, 0, 0}))
    return no_memory();
  refresh();
  const mica_device* d = island_.device;
  MICA_TRY(node_supported(d, island_.partition, i, reason, capacity));
  need = {};
  need.struct_size = sizeof need;
  MICA_TRY(d->backend->query(d->handle, &island_.partition, i, &need));
  mica_b_unit& unit = island_.units[i];
  unit.numerics = need.numerics;
  unit.workspace_bytes = need.workspace_bytes;
  return reserve_arena(unit.workspace_bytes, unit.workspace_offset);
}

void Builder::take_back() {
  while (island_.values.size() > n_values_) island_.values.pop();
  while (island_.flows.size() > n_values_) island_.flows.pop();
  while (island_.nodes.size() > n_nodes_) island_.nodes.pop();
  while (island_.units.size() > n_nodes_) island_.units.pop();
  while (island_.weights.size() > n_weights_) {
    WeightCopy* copy = island_.weights.back();
    island_.weights.pop();
    drop_weight_copy(session(), copy);
  }
  island_.arena_bytes = arena_bytes_;
  refresh();
}

// Joins the island that ends right before the unit when it is on the same device.
mica_status try_device(mica_plan& p, const mica_graph& g, uint32_t i_unit, mica_device* d,
                       char* reason, size_t capacity) {
  const mica_allocator& a = p.session->allocator();
  const auto n = static_cast<uint32_t>(p.islands.size());
  const bool join =
      n > 0 && p.islands[n - 1]->device == d && i_unit > 0 && p.island_of[i_unit - 1] == n;
  if (!join) {
    auto* island = create<Island>(a, a, d);
    if (island == nullptr || !p.islands.push(island)) {
      destroy(a, island);
      return p.session->error().out_of_memory("fallback");
    }
  }
  Island* island = p.islands.back();
  mica_b_need& need = p.kernels[i_unit];
  const mica_status status =
      Builder(p, g, *island).add(p.units[i_unit].node, need, reason, capacity);
  if (status == MICA_OK) {
    p.island_of[i_unit] = static_cast<uint32_t>(p.islands.size());
    p.units[i_unit].numerics = need.numerics;
  }
  if (status == MICA_OK || join) return status;
  destroy(a, island);
  p.islands.pop();
  return status;
}

mica_status place_node(mica_plan& p, const mica_graph& g, uint32_t i_unit, const char* why) {
  mica_session* s = p.session;
  const mica_b_node& node = p.nodes[p.units[i_unit].node];
  char text[480];
  Writer w(text, sizeof text);
  put_refusal(w, &node, s->device, why);
  if (uses_state(p, node)) {
    w.put("; it reads or writes a cache or an input of the step, and such ops never fall back");
    return s->error().fail(MICA_UNSUPPORTED, static_cast<const char*>(text));
  }
  for (mica_device* d : s->fallback) {
    char reason[256] = "";
    const mica_status status = try_device(p, g, i_unit, d, reason, sizeof reason);
    if (status == MICA_OK) {
      const size_t length = w.size() < sizeof text ? w.size() : sizeof text - 1;
      const char* name = d->backend->name;
      const bool ok = p.fallbacks.append(text, length) && p.fallbacks.append("; it runs on ", 13) &&
                      p.fallbacks.append(name, std::strlen(name)) && p.fallbacks.push('\n');
      return ok ? MICA_OK : s->error().out_of_memory("fallback");
    }
    if (status != MICA_UNSUPPORTED) return status;
    w.put("; ");
    put_refusal(w, nullptr, d, reason);
  }
  return s->error().fail(MICA_UNSUPPORTED, static_cast<const char*>(text));
}

// A value that only the island's own nodes read stays there.
void keep_inside(const mica_plan& p, Island& island) {
  for (IslandValue& flow : island.flows) {
    if (!flow.made) continue;
    int64_t outside = 0;
    const auto count = [&](const mica_b_node& n, const auto& root_of, int64_t one) {
      for (uint32_t k = 0; k < n.n_inputs; ++k)
        if (n.input[k] != MICA_B_NONE && root_of(n.input[k]) == flow.origin) outside += one;
    };
    for (const mica_b_node& n : p.nodes)
      count(
          n, [&](uint32_t v) { return p.roots[v]; }, 1);
    for (const mica_b_node& n : island.nodes)
      count(
          n, [&](uint32_t v) { return p.roots[island.flows[v].origin]; }, -1);
    for (const PlanNamed& o : p.outputs) outside += p.roots[o.value] == flow.origin ? 1 : 0;
    flow.moves = outside != 0;
  }
}

}  // namespace

mica_status take_fallbacks(mica_session& s, const mica_session_params& params) {
  s.params.fallback = nullptr;  // the caller's array
  if (!s.fallback.reserve(params.n_fallback)) return s.error().out_of_memory("session");
  for (uint32_t i = 0; i < params.n_fallback; ++i) {
    if (params.fallback == nullptr || params.fallback[i] == nullptr ||
        params.fallback[i]->context != s.device->context)
      return s.error().fail(MICA_INVALID_ARGUMENT,
                            "session: a fallback device is NULL or of another context");
    bool known = false;
    for (const mica_device* d : s.fallback) known |= d == params.fallback[i];
    if (!known) (void)s.fallback.push(retain(params.fallback[i]));
  }
  return MICA_OK;
}

mica_status place_fallbacks(mica_plan& p, const mica_graph& g) {
  const mica_device* device = p.session->device;
  if (p.session->fallback.empty()) return MICA_OK;
  if (!p.island_of.resize(p.units.size()) || !p.kernels.resize(p.units.size()))
    return device->error().out_of_memory("fallback");
  for (uint32_t i = 0; i < p.units.size(); ++i) {
    if (p.units[i].region != MICA_B_NONE) continue;
    char why[256] = "";
    const mica_status status =
        node_supported(device, p.partition, p.units[i].node, why, sizeof why);
    if (status == MICA_UNSUPPORTED) {
      MICA_TRY(place_node(p, g, i, why));
    } else if (status != MICA_OK) {
      return status;
    }
  }
  for (Island* island : p.islands) keep_inside(p, *island);
  return MICA_OK;
}

void pin_carried_values(const mica_plan& p, Vec<uint8_t>& fixed) {
  for (const Island* island : p.islands)
    for (size_t i = 1; i < island->flows.size(); ++i) fixed[p.roots[island->flows[i].origin]] = 1;
}

mica_status cut_parts(mica_plan& p) {
  const auto n_units = static_cast<uint32_t>(p.units.size());
  if (p.session->fallback.empty()) return MICA_OK;
  for (uint32_t first = 0, end = 0; end < n_units || p.segments.empty(); first = end) {
    while (end < n_units && p.island_of[end] == p.island_of[first]) ++end;
    Segment segment{first, end - first, 0, p.partition, {}};
    if (first < n_units) segment.island = p.island_of[first];
    if (segment.island != 0) segment.partition = p.islands[segment.island - 1]->partition;
    if (segment.island == 0 && first < n_units) {
      p.units[first].barrier = 1;
      segment.partition.units = p.units.data() + first;
      segment.partition.n_units = segment.n;
    }
    if (!p.segments.push(segment)) return p.session->error().out_of_memory("plan");
  }
  return MICA_OK;
}

void put_device(Writer& w, const mica_plan& p, uint32_t unit) {
  if (p.fell_back(unit)) w.put(" on ", p.islands[p.island_of[unit] - 1]->device->backend->name);
}

void put_fallbacks(Writer& w, const mica_plan& p) {
  if (p.islands.empty()) return;
  w.put("fallback, in ", static_cast<uint64_t>(p.islands.size()), " islands:\n");
  for (const char c : p.fallbacks) w.put(c);
}

}  // namespace mica
