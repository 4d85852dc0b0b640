// A backend that wraps another and watches it: guard bytes behind every buffer, an arena and KV
// storage that hold NaN wherever the step has not written, cells of a cache that no step may touch,
// and the numerics each node was computed with.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "mica/backend.h"
#include "mica/mica.h"

namespace mica::conformance {

// Two backends are watched in one process: the one under test, and the oracle.
enum class Role { kTested, kOracle };

// The table to add to a context instead of `inner`. One inner backend a role.
const mica_backend* guarded(const mica_backend* inner, Role role);
// The first thing that went wrong since the last call: bytes that nobody may write were written, or
// a barrier is missing; "": nothing.
std::string guards_complaint(Role role);

// Of each plan, in the order of compiling, the mica_numerics of each node.
using NodeNumerics = std::vector<std::vector<uint32_t>>;
// Of the plans compiled since the last call.
NodeNumerics take_numerics(Role role);
// Makes the backend answer these to `query`, instead of its own. ref then computes so.
void impose_numerics(Role role, NodeNumerics numerics);

// What the last step stored in a cache: of one kv_append the cells that it wrote, in the order of
// the step's tokens, read back through kv_unpack.
struct StoredCells {
  std::string name;  // "K 0", "V 0", "K 1", … in the order of the appends
  mica_dtype dtype;
  int64_t head_dim, n_kv_heads;
  std::vector<double> values;        // [cells][n_kv_heads][head_dim]
  std::vector<double> steps;         // of each value, the distance of two neighbours in its dtype
  std::vector<unsigned char> bytes;  // the plain rows of the values
};
// Of the last step that was waited for.
std::vector<StoredCells> stored_cells(Role role);

}  // namespace mica::conformance
