// The graph as it is built: values, nodes, regions.
#pragma once
#include "core/base/context.h"
#include "core/base/name_map.h"
#include "core/graph/op.h"

namespace mica {

enum class ValueKind : uint32_t { kNode, kInput, kWeight, kState };

struct GraphValue {
  Desc desc;
  ValueKind kind = ValueKind::kNode;
  uint32_t node = MICA_B_NONE;  // producer
  uint32_t root = 0;            // the value whose memory it is (itself, unless a view or state op)
  int64_t offset = 0;           // bytes, in the root
  uint32_t source = 0;          // index in inputs, weights of `holder`, or 2 * layer + is_v
  uint32_t holder = 0;          // index in `weights` or `caches`
};

struct GraphNode {
  const OpDef* op = nullptr;
  uint32_t in[MICA_B_MAX_INPUTS] = {};  // value indices, 0: absent
  uint32_t n_in = 0;
  uint32_t out = 0;
  size_t args = 0;   // offset in args, 8-byte aligned
  size_t scope = 0;  // offset in names
};

struct GraphRegion {  // nodes [first, end) emitted by a composite builder; while open without end
  const char* fusion;
  uint32_t first, end;
};

struct GraphNamed {
  size_t name;  // offset in names
  uint32_t value;
};

struct GraphInput : GraphNamed {
  uint32_t table;  // 1 + which of the cache's (kv_step_data), 0: a caller's input, known by name
};

struct GraphExtent {
  size_t name;
  int64_t max;
  uint32_t table = 0;  // 1 + which of the cache's: how many rows it has; it has no name then
};

struct GraphCache {
  mica_kv_cache* cache;
  uint32_t n_tokens;  // extent
};

}  // namespace mica

struct mica_graph {
  explicit mica_graph(const mica_allocator& a)
      : values(a), nodes(a), regions(a), inputs(a), outputs(a), extents(a), weights(a), caches(a),
        names(a), args(a), input_names(a), output_names(a), extent_names(a), weight_values(a),
        state_values(a), table_values(a) {}
  ~mica_graph();

  mica_context* context = nullptr;
  uint32_t tag = 0;
  mica::Vec<mica::GraphValue> values;  // [0] is the invalid tensor
  mica::Vec<mica::GraphNode> nodes;
  mica::Vec<mica::GraphRegion> regions;
  mica::Vec<mica::GraphInput> inputs;
  mica::Vec<mica::GraphNamed> outputs;
  mica::Vec<mica::GraphExtent> extents;  // [0] is none
  mica::Vec<mica_weights*> weights;      // referenced
  mica::Vec<mica::GraphCache> caches;
  mica::Vec<char> names;  // NUL-terminated strings, by offset
  mica::Vec<char> args;
  // What is there already.
  mica::NameMap input_names, output_names, extent_names;
  mica::Vec<mica::Vec<uint32_t>> weight_values;  // of each holder and entry the value, or 0
  mica::Vec<uint32_t> state_values;              // the same of layer * 2 + is_v
  mica::Vec<uint32_t> table_values;              // and of the cache's tables
  // The last nodes of append_shared, in a ring: few are looked through, however many there are.
  static constexpr uint32_t kShared = 8;
  uint32_t shared[kShared] = {};
  uint32_t n_shared = 0;  // ever added, since the last that wrote to an input
  size_t scope = 0;
  mica::Error error;

  const char* name_at(size_t offset) const { return names.data() + offset; }
};
