// Graph to partition: live nodes, resolved views, strict placement, units and what they need.
#include <algorithm>

#include "core/kv/kv_cache.h"
#include "core/plan/session.h"

namespace mica {
namespace {

// Nodes whose value an output or a state op needs.
bool mark_live(const mica_graph& g, Vec<uint8_t>& live) {
  if (!live.resize(g.nodes.size())) return false;
  for (const GraphNamed& o : g.outputs)
    if (g.values[o.value].node != MICA_B_NONE) live[g.values[o.value].node] = 1;
  for (size_t i = g.nodes.size(); i-- > 0;) {
    if ((g.nodes[i].op->flags & kOpState) != 0) live[i] = 1;
    if (live[i] == 0) continue;
    for (uint32_t k = 0; k < g.nodes[i].n_in; ++k) {
      const uint32_t node = g.values[g.nodes[i].in[k]].node;
      if (g.nodes[i].in[k] != 0 && node != MICA_B_NONE) live[node] = 1;
    }
  }
  return true;
}

// Bytes from the first to the last element it can touch.
uint64_t span_bytes(const Desc& d) {
  const mica_dtype_info& info = dtype_info(d.dtype);
  int64_t last = 0;
  for (uint32_t i = 1; i < 4; ++i) last += (d.dim[i] - 1) * d.stride[i];
  const int64_t blocks = div_up(d.dim[0], info.block_elems);
  return static_cast<uint64_t>(last + (blocks - 1) * d.stride[0]) + info.block_bytes;
}

mica_b_value place_value(const mica_graph& g, const GraphValue& v) {
  mica_b_value b = make_value(v.desc);
  b.bytes = span_bytes(v.desc);
  b.offset = static_cast<uint64_t>(v.offset);
  b.storage = MICA_B_UNPLACED;
  if (v.kind == ValueKind::kInput) {
    b.storage = MICA_B_STEP;
    b.buffer = kStepBuffer;
  } else if (v.kind == ValueKind::kWeight) {
    const mica_b_value& w = g.weights[v.holder]->entries[v.source].value;
    b.storage = MICA_B_WEIGHT;
    b.buffer = kFirstWeightsBuffer + v.holder;
    b.layout = w.layout;
    b.offset += w.offset;
    if (v.offset == 0) b.bytes = w.bytes;
  } else if (v.kind == ValueKind::kState) {
    const KvPlace& place = kv_place(g.caches[v.holder].cache, v.source / 2);
    const bool is_v = v.source % 2 == 1;
    b.storage = MICA_B_STATE;
    b.buffer = kFirstWeightsBuffer + static_cast<uint32_t>(g.weights.size());
    b.layout = is_v ? place.v_layout : place.k_layout;
    b.offset += is_v ? place.v_offset : place.k_offset;
    b.bytes = (is_v ? place.v_page_bytes : place.k_page_bytes) * place.n_pages;
  }
  return b;
}

bool add_values(mica_plan& p, const mica_graph& g, const Vec<uint8_t>& live) {
  if (!p.values.resize(g.values.size()) || !p.roots.resize(g.values.size())) return false;
  for (uint32_t i = 1; i < g.values.size(); ++i) {
    const GraphValue& v = g.values[i];
    p.values[i] = place_value(g, v);
    p.roots[i] = v.root;
    if (v.kind == ValueKind::kInput &&
        !p.step_values.push({i, v.source, static_cast<uint64_t>(v.offset)}))
      return false;
    const bool computed = v.node != MICA_B_NONE && live[v.node] != 0;
    if (computed && p.values[i].storage == MICA_B_UNPLACED) {
      p.values[i].storage = MICA_B_TEMP;
      p.values[i].buffer = kArenaBuffer;
    }
  }
  return true;
}

bool add_nodes(mica_plan& p, const mica_graph& g, const Vec<uint8_t>& live) {
  for (uint32_t i = 0; i < g.nodes.size(); ++i) {
    const GraphNode& n = g.nodes[i];
    if (live[i] == 0 || (n.op->flags & kOpView) != 0) continue;
    mica_b_node b{};
    b.op = n.op->id;
    b.n_inputs = n.n_in;
    for (uint32_t k = 0; k < MICA_B_MAX_INPUTS; ++k)
      b.input[k] = k < n.n_in && n.in[k] != 0 ? n.in[k] : MICA_B_NONE;
    b.output = n.out;
    b.args_size = n.op->args_size;
    b.args = p.args.data() + n.args;
    b.name = p.name_at(n.scope);
    if (!p.nodes.push(b)) return false;
  }
  return true;
}

// One past the number of the table that a value is, 0: none.
uint32_t table_of(const mica_plan& p, const mica_graph& g, uint32_t value) {
  const GraphValue& v = g.values[g.values[value].root];
  return v.kind == ValueKind::kInput ? p.inputs[v.source].table : 0;
}
bool reads_table(const mica_plan& p, const mica_graph& g, const GraphNode& node, uint32_t table) {
  const auto is_it = [&](uint32_t value) {
    return value != 0 && table_of(p, g, value) == table + 1;
  };
  return std::any_of(node.in, node.in + node.n_in, is_it);
}

// A group's shifts count as read when every layer that owns storage is shifted: a step that a layer
// would do without is to be refused.
void note_lacks(mica_plan& p, const mica_graph& g) {
  const mica_kv_cache& c = *p.cache;
  const auto is_shifted = [&](uint32_t layer) {
    return std::any_of(g.nodes.begin(), g.nodes.end(), [&](const GraphNode& n) {
      const auto is_k = [&](uint32_t value) {
        const GraphValue& v = g.values[g.values[value].root];
        return v.kind == ValueKind::kState && v.source == 2 * layer;
      };
      return std::any_of(n.in, n.in + n.n_in, is_k) &&
             reads_table(p, g, n, kv_shifts_of(c.layers[layer].group));
    });
  };
  for (uint32_t i = 0; i < kv_n_layers(&c); ++i) {
    uint8_t& reads = p.reads_table[kv_shifts_of(c.layers[i].group)];
    if (kv_layer(&c, i).source == MICA_KV_NO_SOURCE && reads != 0) reads = is_shifted(i);
  }
}

// A graph has all tables of a cache; those that nothing reads get no place in the step block.
bool note_tables(mica_plan& p, const mica_graph& g) {
  if (p.cache != nullptr && !p.reads_table.resize(kv_n_tables(p.cache))) return false;
  const auto note = [&](uint32_t root) {
    const uint32_t table = table_of(p, g, root);
    if (table != 0) p.reads_table[table - 1] = 1;
  };
  for (const PlanNamed& o : p.outputs) note(p.roots[o.value]);
  for (const mica_b_node& node : p.nodes) p.each_read(node, note);
  for (PlanInput& in : p.inputs)
    if (in.table != 0 && p.reads_table[in.table - 1] == 0) in.place = kNoPlace;
  for (const PlanStepValue& v : p.step_values)
    if (p.inputs[v.input].place == kNoPlace) p.values[v.value].storage = MICA_B_UNPLACED;
  if (p.cache != nullptr) note_lacks(p, g);
  return true;
}

bool add_leaves(mica_plan& p, const mica_graph& g) {
  const auto name_of = [&](uint32_t i) { return p.name_at(p.outputs[i].name); };
  if (!p.outputs.append(g.outputs.data(), g.outputs.size())) return false;
  for (uint32_t i = 0; i < p.outputs.size(); ++i)
    if (!p.output_names.insert(name_of(i), i, name_of)) return false;
  for (const GraphInput& in : g.inputs)
    if (!p.inputs.push({in, 0})) return false;
  for (const GraphExtent& e : g.extents)
    if (!p.extents.push({e.max, 0}) || !p.extent_names.push(e.name) ||
        !p.extent_tables.push(e.table) || !p.extent_places.push(0))
      return false;
  p.graph_tag = g.tag;
  if (!p.weights.reserve(g.weights.size())) return false;
  for (mica_weights* w : g.weights) (void)p.weights.push(retain(w));
  if (!g.caches.empty()) {
    p.cache = g.caches[0].cache;
    p.cache_extent = g.caches[0].n_tokens;
  }
  return note_tables(p, g);
}

void refresh_partition(mica_plan& p) {
  mica_b_partition& b = p.partition;
  b.struct_size = sizeof b;
  b.n_values = static_cast<uint32_t>(p.values.size());
  b.n_nodes = static_cast<uint32_t>(p.nodes.size());
  b.n_regions = static_cast<uint32_t>(p.regions.size());
  b.n_units = static_cast<uint32_t>(p.units.size());
  b.n_extents = static_cast<uint32_t>(p.extents.size());
  b.n_buffers = kFirstWeightsBuffer + static_cast<uint32_t>(p.weights.size()) +
                (p.cache != nullptr ? 1u : 0u);
  b.values = p.values.data();
  b.nodes = p.nodes.data();
  b.regions = p.regions.data();
  b.units = p.units.data();
  b.extents = p.extents.data();
  b.variant = p.session->params.variant;
}

// Asks in what private form the device keeps temporaries that no output names, that have no view
// and that stay on the device; sets their layout and bytes.
mica_status choose_layouts(mica_plan& p) {
  const mica_device* device = p.session->device;
  if (device->backend->value_layout == nullptr) return MICA_OK;
  Vec<uint8_t> fixed(device->allocator());
  if (!fixed.resize(p.values.size())) return device->error().out_of_memory("plan");
  for (const PlanNamed& o : p.outputs) fixed[p.roots[o.value]] = 1;
  for (uint32_t v = 1; v < p.values.size(); ++v)
    if (p.roots[v] != v) fixed[p.roots[v]] = 1;
  pin_carried_values(p, fixed);
  for (const mica_b_node& n : p.nodes) {
    mica_b_value& v = p.values[n.output];
    if (v.storage != MICA_B_TEMP || fixed[n.output] != 0) continue;
    uint32_t layout = 0;
    uint64_t bytes = v.bytes;
    MICA_TRY(
        device->backend->value_layout(device->handle, &p.partition, n.output, &layout, &bytes));
    v.layout = layout;
    v.bytes = bytes;
  }
  return MICA_OK;
}

// The device must run every node that no claimed region took over and that did not fall back.
mica_status check_supported(const mica_plan& p) {
  const mica_device* device = p.session->device;
  for (uint32_t i = 0; i < p.units.size(); ++i) {
    const mica_b_unit& u = p.units[i];
    if (u.region != MICA_B_NONE || p.fell_back(i)) continue;
    char reason[256] = "";
    const mica_status status = node_supported(device, p.partition, u.node, reason, sizeof reason);
    if (status == MICA_OK) continue;
    char text[480];
    Writer w(text, sizeof text);
    put_refusal(w, &p.nodes[u.node], device, reason);
    return device->error().fail(status, static_cast<const char*>(text));
  }
  return MICA_OK;
}

// Whether a unit of the plan may run a kernel row of the wanted name. "naive" asks for nothing.
bool has_variant(const mica_plan& p) {
  const mica_device* device = p.session->device;
  const char* variant = p.partition.variant;
  if (variant == nullptr || std::strcmp(variant, "naive") == 0) return true;
  const auto variants = device->backend->variants;
  for (uint32_t i = 0; variants != nullptr && i < p.units.size(); ++i) {
    if (p.fell_back(i)) continue;
    const char* name = nullptr;
    for (uint32_t k = 0; (name = variants(device->handle, &p.partition, i, k)) != nullptr; ++k)
      if (std::strcmp(name, variant) == 0) return true;
  }
  return false;
}

mica_status query_units(mica_plan& p) {
  const mica_device* device = p.session->device;
  if (!p.kernels.resize(p.units.size())) return device->error().out_of_memory("plan");
  for (uint32_t i = 0; i < p.units.size(); ++i) {
    if (p.fell_back(i)) continue;
    mica_b_need& need = p.kernels[i];
    need.struct_size = sizeof need;
    MICA_TRY(device->backend->query(device->handle, &p.partition, i, &need));
    p.units[i].workspace_bytes = need.workspace_bytes;
    p.units[i].numerics = need.numerics;
  }
  if (has_variant(p)) return MICA_OK;
  return device->error().invalid("no op of the graph has a kernel named ",
                                 quoted(p.partition.variant));
}

mica_status check_homes(const mica_graph& g, const mica_session* s) {
  Error& error = s->error();
  if (g.context != s->device->context)
    return error.invalid("the graph is of another context than the session");
  for (const mica_weights* w : g.weights)
    if (!same_device(w->device, s->device))
      return error.invalid("the graph's weights are on another device");
  for (const GraphCache& c : g.caches)
    if (c.cache != s->cache)
      return error.invalid("the graph uses a cache that is not the session's");
  bool writes_state = false;
  for (const GraphNode& n : g.nodes) writes_state |= (n.op->flags & kOpState) != 0;
  if (g.outputs.empty() && !writes_state)
    return error.invalid("the graph has no output and writes no state");
  return MICA_OK;
}

// Of a weight or a cache in a layout of the device's own, a view's offset and strides say nothing.
mica_status check_views(const mica_plan& p, const mica_graph& g, Error& error) {
  for (uint32_t i = 1; i < g.values.size(); ++i) {
    const GraphValue& v = g.values[i];
    if (v.root == i || p.values[i].layout == 0) continue;
    const bool is_view = v.node != MICA_B_NONE && (g.nodes[v.node].op->flags & kOpView) != 0;
    if (v.kind == ValueKind::kState && is_view)
      return error.fail(MICA_UNSUPPORTED,
                        "a view of a cache, which the device keeps in a layout of its own");
    if (v.kind != ValueKind::kWeight) continue;
    return error.fail(MICA_UNSUPPORTED, "a view of weight ",
                      quoted(g.weights[v.holder]->entries[v.source].name.c_str()),
                      ", which the device keeps in a layout of its own: mica_copy it first");
  }
  return MICA_OK;
}

}  // namespace

bool args_known(const mica_device* device, const mica_b_node& node, char* reason, size_t capacity) {
  if (device->backend->args_bytes == nullptr) return true;
  const uint32_t known = device->backend->args_bytes(device->handle, node.op);
  const auto* bytes = static_cast<const unsigned char*>(node.args);
  for (uint32_t i = known; i < node.args_size; ++i) {
    if (bytes[i] == 0) continue;
    Writer(reason, capacity)
        .put("its kernels of ", find_op(node.op)->name, " know the first ", known,
             " bytes of the options, and byte ", i, " is set");
    return false;
  }
  return true;
}

mica_status node_supported(const mica_device* device, const mica_b_partition& partition,
                           uint32_t node, char* reason, size_t capacity) {
  if (!args_known(device, partition.nodes[node], reason, capacity)) return MICA_UNSUPPORTED;
  return device->backend->supports(device->handle, &partition, node, reason, capacity);
}

void put_refusal(Writer& w, const mica_b_node* node, const mica_device* device,
                 const char* reason) {
  if (node != nullptr) w.put(find_op(node->op)->name);
  if (node != nullptr && node->name[0] != '\0') w.put(" ", quoted(node->name));
  w.put(node != nullptr ? ": " : "", device->backend->name,
        " cannot run it: ", reason[0] != '\0' ? reason : "no reason given");
}

mica_status build_plan(mica_plan& p, const mica_graph& g) {
  Error& error = p.session->error();
  if (g.error.code() != MICA_OK) return error.fail(g.error.code(), g.error.text());
  MICA_TRY(check_homes(g, p.session));
  Vec<uint8_t> live(p.session->allocator());
  if (!mark_live(g, live) || !p.names.append(g.names.data(), g.names.size()) ||
      !p.args.append(g.args.data(), g.args.size()) || !add_values(p, g, live) ||
      !add_nodes(p, g, live) || !add_leaves(p, g))
    return error.out_of_memory("plan");
  MICA_TRY(check_views(p, g, error));
  refresh_partition(p);
  MICA_TRY(claim_regions(p, g));
  refresh_partition(p);
  MICA_TRY(place_fallbacks(p, g));
  MICA_TRY(choose_layouts(p));
  MICA_TRY(check_supported(p));
  MICA_TRY(query_units(p));
  MICA_TRY(plan_memory(p));
  return cut_parts(p);
}

}  // namespace mica
