// Building graphs: handles, leaves, nodes, and the first error.
#include "core/graph/graph.h"

#include "core/base/device.h"
#include "core/graph/weights.h"
#include "core/kv/kv_cache.h"

using mica::Desc;
using mica::Error;
using mica::GraphNode;
using mica::GraphValue;
using mica::quoted;
using mica::ValueKind;

mica_graph::~mica_graph() {
  for (mica_weights* w : weights) mica_weights_release(w);
  for (const mica::GraphCache& c : caches) mica_kv_cache_release(c.cache);
}

namespace mica {
namespace {

mica_tensor invalid() { return {0, 0}; }

// Keeps the first error only: later ones are its consequences.
template <class... Parts>
mica_tensor fail(mica_graph* g, mica_status status, Parts... parts) {
  if (g->error.code() == MICA_OK) g->error.fail(status, parts...);
  return invalid();
}
mica_tensor out_of_memory(mica_graph* g) { return fail(g, MICA_OUT_OF_MEMORY, "out of memory"); }

bool add_name(mica_graph* g, const char* text, size_t& out) {
  out = g->names.size();
  return g->names.append(text, std::strlen(text) + 1);
}

mica_tensor add_value(mica_graph* g, GraphValue v) {
  const auto index = static_cast<uint32_t>(g->values.size());
  if (v.root == 0) v.root = index;
  return g->values.push(v) ? mica_tensor{index, g->tag} : out_of_memory(g);
}

bool is_foreign(const mica_graph* g, mica_tensor t) {
  return t.graph != g->tag || t.index >= g->values.size();
}

// Puts "attention 'blk.3': " or "attention: " before the op's own sentence.
mica_tensor blame(mica_graph* g, const char* op) {
  if (g->scope == 0) g->error.prefix(op);
  if (g->scope != 0) g->error.prefix(op, " ", quoted(g->name_at(g->scope)));
  return invalid();
}
template <class... Parts>
mica_tensor refuse(mica_graph* g, const char* op, Parts... parts) {
  g->error.invalid(parts...);
  return blame(g, op);
}

// The index of `name` in one of the graph's lists, or NameMap::kNone.
template <class List>
uint32_t find_named(const mica_graph* g, const NameMap& map, const List& list, const char* name) {
  return map.find(name, [&](uint32_t i) { return g->name_at(list[i].name); });
}
// Adds what `map` is to find.
template <class List, class Named>
bool add_named(mica_graph* g, NameMap& map, List& list, const char* name, Named named) {
  const auto name_of = [&](uint32_t i) { return g->name_at(list[i].name); };
  return add_name(g, name, named.name) && list.push(named) &&
         map.insert(name, static_cast<uint32_t>(list.size() - 1), name_of);
}

// True when an extent was given and is not one of this graph's.
bool is_foreign(const mica_graph* g, mica_extent e) {
  return e.index != 0 && (e.graph != g->tag || e.index >= g->extents.size());
}

// The state value of layer `layer`'s K or V: made once a graph.
mica_tensor state_value(mica_graph* g, mica_kv_cache* cache, uint32_t layer, bool is_v) {
  const mica_kv_layer& l = kv_layer(cache, layer);
  // A layer that shares another's storage names that layer's value.
  const uint32_t owner = l.source != MICA_KV_NO_SOURCE ? l.source : layer;
  if (l.v_is_k != 0) is_v = false;
  const uint32_t source = 2 * owner + (is_v ? 1 : 0);
  uint32_t& known = g->state_values[source];
  if (known != 0) return {known, g->tag};
  const mica_dtype dtype = is_v ? l.dtype_v : l.dtype_k;
  const mica_dtype_info& info = find_dtype(static_cast<uint32_t>(dtype))->info;
  GraphValue v;
  v.kind = ValueKind::kState;
  v.source = source;
  Desc& d = v.desc;
  d.dtype = dtype;
  d.rank = 3;
  d.dim[0] = is_v ? l.head_dim_v : l.head_dim_k;
  d.dim[1] = l.n_kv_heads;
  d.dim[2] = int64_t{kv_place(cache, layer).n_pages} * kPageCells;
  d.stride[0] = info.block_bytes;
  d.stride[1] = div_up(d.dim[0], info.block_elems) * info.block_bytes;  // whole blocks a head
  d.stride[2] = d.stride[1] * d.dim[1];
  d.stride[3] = d.stride[2] * d.dim[2];
  known = static_cast<uint32_t>(g->values.size());
  return add_value(g, v);
}

// A table of the cache, I32 [n]: made once a graph, known by its number, without a name.
mica_tensor table_input(mica_graph* g, uint32_t table, int64_t n, uint32_t extent) {
  uint32_t& known = g->table_values[table];
  if (known != 0) return {known, g->tag};
  known = static_cast<uint32_t>(g->values.size());
  GraphValue v;
  v.kind = ValueKind::kInput;
  v.desc = make_desc(MICA_I32, 1, &n, extent);
  v.source = static_cast<uint32_t>(g->inputs.size());
  return g->inputs.push({0, known, table + 1}) ? add_value(g, v) : out_of_memory(g);
}

// The extent of the cache's turns: made once a graph, known by its number, without a name.
uint32_t turns_extent(mica_graph* g, const mica_kv_cache* cache) {
  uint32_t& known = g->table_values[kKvTurnRows];
  if (known != 0) return known;
  GraphExtent extent{0, cache->max_turns, kKvTurnRows + 1};
  if (!g->extents.push(extent)) return out_of_memory(g).index;
  return known = static_cast<uint32_t>(g->extents.size() - 1);
}

mica_kv make_kv(mica_graph* g, mica_kv_cache* cache, uint32_t layer, mica_extent n_tokens) {
  const uint32_t group = cache->layers[layer].group;
  const int64_t max = g->extents[n_tokens.index].max;
  mica_kv kv{};
  kv.k = state_value(g, cache, layer, false);
  kv.v = state_value(g, cache, layer, true);
  const bool turns = kv_has_turns(*cache);
  kv.positions = table_input(g, kKvPositions, max, n_tokens.index);
  kv.key_positions = turns ? table_input(g, kKvKeyPositions, max, n_tokens.index) : kv.positions;
  if (turns) kv.turns = table_input(g, kKvTurns, cache->max_turns, turns_extent(g, cache));
  kv.slots = table_input(g, kv_slots_of(group), max, n_tokens.index);
  kv.table = table_input(
      g, kv_table_of(group),
      MICA_KV_TABLE_WORDS(int64_t{cache->max_seqs}, cache->groups[group].max_entries), kNoExtent);
  kv.shifts =
      table_input(g, kv_shifts_of(group),
                  1 + int64_t{cache->groups[group].max_shifts} * MICA_KV_SHIFT_WORDS, kNoExtent);
  kv.keys = static_cast<uint32_t>(cache->keys);
  kv.max_seqs = cache->max_seqs;
  kv.window = kv_layer(cache, layer).window;
  kv.n_first = kv_layer(cache, layer).n_first;
  return kv;
}

bool copy_args(mica_graph* g, const void* args, uint32_t size, size_t& out) {
  while (g->args.size() % 8 != 0)
    if (!g->args.push(0)) return false;
  out = g->args.size();
  return g->args.append(static_cast<const char*>(args), size);
}

}  // namespace

mica_tensor append(mica_graph* g, const OpDef& op, const mica_tensor* in, uint32_t n_in,
                   const void* args, uint32_t args_size) {
  if (g == nullptr || g->error.code() != MICA_OK) return invalid();
  Desc descs[MICA_B_MAX_INPUTS];
  GraphNode node;
  node.op = &op;
  node.n_in = op.n_inputs;
  for (uint32_t i = 0; i < n_in; ++i) {
    if (in[i].index == 0 && i >= op.n_required) continue;
    if (in[i].index == 0) return refuse(g, op.name, "input ", i, " is missing");
    if (is_foreign(g, in[i]))
      return refuse(g, op.name, "input ", i, " is a tensor of another graph");
    node.in[i] = in[i].index;
    descs[i] = g->values[in[i].index].desc;
  }
  GraphValue out;
  const InferCall call{descs, n_in, args, out.desc, g->error};
  if (op.infer(call) != MICA_OK) return blame(g, op.name);
  if ((op.flags & (kOpView | kOpState)) != 0) {
    const Desc desc = out.desc;
    out = g->values[node.in[0]];  // whose memory it is
    out.desc = desc;
    if (op.view_offset != nullptr) out.offset += op.view_offset(call);
    if ((op.flags & kOpState) != 0 && out.kind != ValueKind::kInput &&
        out.kind != ValueKind::kState)
      return refuse(g, op.name, "what it writes must be an input of the step or a cache");
    // Who reads the input from here on reads something else.
    if ((op.flags & kOpState) != 0 && out.kind == ValueKind::kInput) g->n_shared = 0;
  }
  out.node = static_cast<uint32_t>(g->nodes.size());
  node.out = static_cast<uint32_t>(g->values.size());
  node.scope = g->scope;
  if (!copy_args(g, args, args_size, node.args) || !g->nodes.push(node)) return out_of_memory(g);
  return add_value(g, out);
}

mica_tensor append_shared(mica_graph* g, const OpDef& op, const mica_tensor* in, uint32_t n_in,
                          const void* args, uint32_t args_size) {
  if (g == nullptr || g->error.code() != MICA_OK) return invalid();
  for (uint32_t k = 0; k < mica_graph::kShared && k < g->n_shared; ++k) {
    const GraphNode& node = g->nodes[g->shared[k]];
    bool same = node.op == &op && std::memcmp(&g->args[node.args], args, args_size) == 0;
    for (uint32_t i = 0; i < n_in; ++i)
      same = same && node.in[i] == in[i].index && (in[i].index == 0 || in[i].graph == g->tag);
    if (same) return {node.out, g->tag};
  }
  const mica_tensor out = append(g, op, in, n_in, args, args_size);
  if (out.index != 0) g->shared[g->n_shared++ % mica_graph::kShared] = g->values[out.index].node;
  return out;
}

mica_tensor made_of(const mica_graph* g, mica_tensor x, uint32_t op, uint32_t i_input) {
  if (g == nullptr || x.index == 0 || is_foreign(g, x)) return {0, 0};
  const GraphNode* node = nullptr;
  for (uint32_t i = x.index; i != 0 && g->values[i].node != MICA_B_NONE; i = node->in[0]) {
    node = &g->nodes[g->values[i].node];
    if (node->op->id == op) return {node->in[i_input], x.graph};
    if ((node->op->flags & kOpView) == 0) break;
  }
  return {0, 0};
}

mica_tensor builder_error(mica_graph* g, const char* op, const char* text) {
  return g == nullptr || g->error.code() != MICA_OK ? invalid() : refuse(g, op, text);
}

// A scope inside another belongs to the outer one's region, which it must not close.
RegionScope::RegionScope(mica_graph* graph, const char* fusion) : graph_(nullptr) {
  if (graph == nullptr || (!graph->regions.empty() && graph->regions.back().end == MICA_B_NONE))
    return;
  const auto n = static_cast<uint32_t>(graph->nodes.size());
  if (graph->regions.push({fusion, n, MICA_B_NONE})) graph_ = graph;
  if (graph_ == nullptr) out_of_memory(graph);
}

RegionScope::~RegionScope() {
  if (graph_ != nullptr) graph_->regions.back().end = static_cast<uint32_t>(graph_->nodes.size());
}

}  // namespace mica

using mica::fail;
using mica::invalid;
using mica::out_of_memory;

extern "C" {

mica_status mica_graph_create(mica_context* context, mica_graph** out_graph) {
  if (out_graph != nullptr) *out_graph = nullptr;
  if (context == nullptr) return MICA_INVALID_ARGUMENT;
  if (out_graph == nullptr) return context->error.null("out_graph");
  auto* g = mica::create<mica_graph>(context->allocator, context->allocator);
  if (g == nullptr) return context->error.out_of_memory("graph");
  g->context = mica::retain(context);
  // Unlike that of any other graph of this context, and hardly like one of another context.
  const auto where = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(context) >> 4);
  g->tag = (where ^ (++context->n_graphs * 2654435761u)) | 1u;
  if (!g->values.resize(1) || !g->extents.resize(1) || !g->names.push('\0')) {
    mica_graph_release(g);
    return context->error.out_of_memory("graph");
  }
  *out_graph = g;
  return MICA_OK;
}

void mica_graph_release(mica_graph* graph) {
  if (graph == nullptr) return;
  mica_context* context = graph->context;  // its allocator is in use until the graph is gone
  mica::destroy(context->allocator, graph);
  mica_context_release(context);
}

mica_status mica_graph_status(const mica_graph* graph, const char** out_text) {
  if (graph == nullptr) return MICA_INVALID_ARGUMENT;
  if (out_text != nullptr) *out_text = graph->error.text();
  return graph->error.code();
}

void mica_graph_scope(mica_graph* graph, const char* name) {
  if (graph == nullptr) return;
  graph->scope = 0;
  if (name != nullptr && name[0] != '\0' && !mica::add_name(graph, name, graph->scope))
    out_of_memory(graph);
}

mica_status mica_graph_tensor_info(const mica_graph* graph, mica_tensor tensor,
                                   mica_tensor_info* out_info) {
  if (graph == nullptr) return MICA_INVALID_ARGUMENT;
  Error& error = graph->context->error;
  if (out_info == nullptr) return error.null("out_info");
  if (tensor.index == 0 || mica::is_foreign(graph, tensor))
    return error.invalid("tensor info: not a tensor of this graph");
  const Desc& d = graph->values[tensor.index].desc;
  *out_info = {d.dtype, d.rank, {d.dim[0], d.dim[1], d.dim[2], d.dim[3]}, {d.extent, 0}};
  if (d.extent != mica::kNoExtent) out_info->extent.graph = graph->tag;
  return MICA_OK;
}

mica_extent mica_graph_extent(mica_graph* graph, const char* name, int64_t max) {
  const mica_extent none = MICA_NO_EXTENT;
  if (graph == nullptr || graph->error.code() != MICA_OK) return none;
  const auto refuse = [&](auto... parts) {
    graph->error.invalid("extent ", quoted(name != nullptr ? name : ""), parts...);
    return none;
  };
  if (name == nullptr || max < 1 || max > INT32_MAX)
    return refuse(": the maximum must be 1 to 2147483647, not ", max);
  const uint32_t i = mica::find_named(graph, graph->extent_names, graph->extents, name);
  if (i != mica::NameMap::kNone && graph->extents[i].max != max)
    return refuse(": the maximum was ", graph->extents[i].max, ", now it is ", max);
  if (i != mica::NameMap::kNone) return {i, graph->tag};
  if (!mica::add_named(graph, graph->extent_names, graph->extents, name,
                       mica::GraphExtent{0, max, 0})) {
    out_of_memory(graph);
    return none;
  }
  return {static_cast<uint32_t>(graph->extents.size() - 1), graph->tag};
}

mica_tensor mica_input(mica_graph* graph, const char* name, mica_dtype dtype, uint32_t rank,
                       const int64_t* dim, mica_extent extent) {
  if (graph == nullptr || graph->error.code() != MICA_OK) return invalid();
  if (name == nullptr || name[0] == '\0' || dim == nullptr)
    return fail(graph, MICA_INVALID_ARGUMENT, "input: name or dimensions are missing");
  const auto refuse = [&](auto... parts) {
    return fail(graph, MICA_INVALID_ARGUMENT, "input ", quoted(name), parts...);
  };
  if (mica::find_named(graph, graph->input_names, graph->inputs, name) != mica::NameMap::kNone)
    return refuse(" is there already");
  const mica::DtypeDef* def = mica::find_dtype(static_cast<uint32_t>(dtype));
  uint64_t bytes = 0;
  Error error;
  if (def == nullptr) return refuse(": no such dtype");
  if (!mica::tensor_bytes(def->info, rank, dim, bytes, error)) return refuse(": ", error.text());
  if (mica::is_foreign(graph, extent)) return refuse(": its extent is an extent of another graph");
  if (extent.index != 0 && dim[rank - 1] != graph->extents[extent.index].max)
    return refuse(": its last dimension must be the extent's maximum");
  GraphValue v;
  v.kind = ValueKind::kInput;
  v.desc = mica::make_desc(dtype, rank, dim, extent.index);
  v.source = static_cast<uint32_t>(graph->inputs.size());
  const auto index = static_cast<uint32_t>(graph->values.size());
  return mica::add_named(graph, graph->input_names, graph->inputs, name,
                         mica::GraphInput{{0, index}, 0})
             ? mica::add_value(graph, v)
             : out_of_memory(graph);
}

mica_tensor mica_weight(mica_graph* graph, mica_weights* weights, const char* name) {
  if (graph == nullptr || graph->error.code() != MICA_OK) return invalid();
  if (weights == nullptr || name == nullptr)
    return fail(graph, MICA_INVALID_ARGUMENT, "weight: weights or name are NULL");
  const uint32_t i = mica::find_weight(weights, name);
  if (i == MICA_B_NONE)
    return fail(graph, MICA_NOT_FOUND, "weight ", quoted(name), " is not there");
  uint32_t holder = 0;
  while (holder < graph->weights.size() && graph->weights[holder] != weights) ++holder;
  if (holder == graph->weights.size()) {
    if (!graph->weight_values.push(mica::Vec<uint32_t>(graph->context->allocator)) ||
        !graph->weights.push(weights))
      return out_of_memory(graph);
    mica_weights_retain(weights);
  }
  // All at once: one by one would copy the list as often.
  mica::Vec<uint32_t>& known = graph->weight_values[holder];
  if (known.size() <= i && !known.resize(weights->entries.size())) return out_of_memory(graph);
  if (known[i] != 0) return {known[i], graph->tag};
  known[i] = static_cast<uint32_t>(graph->values.size());
  GraphValue v;
  v.kind = ValueKind::kWeight;
  v.desc = weights->entries[i].desc;
  v.source = i;
  v.holder = holder;
  return mica::add_value(graph, v);
}

mica_kv mica_graph_kv(mica_graph* graph, mica_kv_cache* cache, uint32_t i_layer,
                      mica_extent n_tokens) {
  mica_kv kv{};
  if (graph == nullptr || graph->error.code() != MICA_OK) return kv;
  const auto refuse = [&](auto... parts) {
    fail(graph, MICA_INVALID_ARGUMENT, "kv: ", parts...);
    return kv;
  };
  if (cache == nullptr) return refuse("cache is NULL");
  if (cache->device->context != graph->context) return refuse("the cache is of another context");
  if (i_layer >= mica::kv_n_layers(cache)) return refuse("the cache has no layer ", i_layer);
  const int64_t max_tokens = cache->max_step_tokens;
  if (mica::is_foreign(graph, n_tokens)) return refuse("n_tokens is an extent of another graph");
  if (n_tokens.index == 0 || graph->extents[n_tokens.index].max > max_tokens)
    return refuse("n_tokens must be an extent of at most ", max_tokens,
                  ", the cache's max_step_tokens");
  if (graph->caches.empty()) {
    if (!graph->state_values.resize(size_t{2} * mica::kv_n_layers(cache)) ||
        !graph->table_values.resize(mica::kv_n_tables(cache)) ||
        !graph->caches.push({cache, n_tokens.index})) {
      out_of_memory(graph);
      return kv;
    }
    mica::retain(cache);
  } else if (graph->caches[0].cache != cache || graph->caches[0].n_tokens != n_tokens.index) {
    return refuse("a graph uses one cache, with one extent of tokens");
  }
  return mica::make_kv(graph, cache, i_layer, n_tokens);
}

void mica_output(mica_graph* graph, mica_tensor tensor, const char* name) {
  if (graph == nullptr || graph->error.code() != MICA_OK) return;
  const auto refuse = [&](const char* why) {
    fail(graph, MICA_INVALID_ARGUMENT, "output ", quoted(name != nullptr ? name : ""), why);
  };
  if (tensor.index == 0 || mica::is_foreign(graph, tensor) || name == nullptr)
    return refuse(": not a tensor of this graph");
  if (mica::find_named(graph, graph->output_names, graph->outputs, name) != mica::NameMap::kNone)
    return refuse(" is there already");
  if (!graph->values[tensor.index].desc.contiguous())
    return refuse(" is not contiguous; mica_copy packs it");
  if (!mica::add_named(graph, graph->output_names, graph->outputs, name,
                       mica::GraphNamed{0, tensor.index}))
    out_of_memory(graph);
}

}  // extern "C"
