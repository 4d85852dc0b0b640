// An independent look at a partition's barriers: from the byte ranges that each unit reads and
// writes, every pair of units with no barrier between them must not touch the same bytes, unless
// both only read. It knows nothing of how the planner thinks.
#pragma once
#include <string>
#include <vector>

#include "mica/backend.h"

namespace mica::conformance {

struct Access {
  uint32_t buffer;
  uint64_t begin, end;
  bool write;
};

inline void add_value_access(const mica_b_partition& p, uint32_t value, bool write,
                             std::vector<Access>& out) {
  if (value == MICA_B_NONE) return;
  const mica_b_value& v = p.values[value];
  if (v.extent != MICA_B_NONE) {  // its live count is read in the step block
    const uint64_t at = p.extents[v.extent].offset;
    out.push_back({1, at, at + sizeof(int32_t), false});
  }
  if (v.storage != MICA_B_UNPLACED) out.push_back({v.buffer, v.offset, v.offset + v.bytes, write});
}

inline std::vector<Access> accesses_of(const mica_b_partition& p, const mica_b_unit& u) {
  std::vector<Access> out;
  const bool region = u.region != MICA_B_NONE;
  const uint32_t n = region ? p.regions[u.region].n_members : 1;
  for (uint32_t i = 0; i < n; ++i) {
    const mica_b_node& node = p.nodes[region ? p.regions[u.region].members[i] : u.node];
    for (uint32_t k = 0; k < node.n_inputs; ++k) add_value_access(p, node.input[k], false, out);
    add_value_access(p, node.output, true, out);
  }
  if (u.workspace_bytes > 0)
    out.push_back({0, u.workspace_offset, u.workspace_offset + u.workspace_bytes, true});
  return out;
}

inline bool clash(const std::vector<Access>& a, const std::vector<Access>& b) {
  for (const Access& x : a)
    for (const Access& y : b)
      if ((x.write || y.write) && x.buffer == y.buffer && x.begin < y.end && y.begin < x.end)
        return true;
  return false;
}

// "" when no two units clash; else which do.
inline std::string find_hazard(const mica_b_partition& p) {
  std::vector<std::vector<Access>> accesses;
  for (uint32_t i = 0; i < p.n_units; ++i) accesses.push_back(accesses_of(p, p.units[i]));
  for (uint32_t first = 0, i = 0; i < p.n_units; ++i) {
    if (p.units[i].barrier != 0) first = i;
    for (uint32_t j = first; j < i; ++j)
      if (clash(accesses[j], accesses[i]))
        return "units " + std::to_string(j) + " (op " +
               std::to_string(p.nodes[p.units[j].node].op) + ") and " + std::to_string(i) +
               " (op " + std::to_string(p.nodes[p.units[i].node].op) +
               ") touch the same bytes and no barrier stands between them";
  }
  return "";
}

}  // namespace mica::conformance
