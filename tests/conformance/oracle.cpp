#include "tests/conformance/oracle.h"

#include <map>

#include "mica/backend.h"

namespace mica::conformance {
namespace {

using Key = std::pair<std::string, NodeNumerics>;
struct Kept {
  const Case* of = nullptr;
  uint64_t seed = 0;
  std::map<Key, RunResult> results;  // a map's nodes stay where they are
};
Kept kept;

}  // namespace

const RunResult& oracle(const Case& c, const RunOptions& options, const std::string& how,
                        const NodeNumerics& numerics) {
  if (kept.of != &c || kept.seed != options.seed) kept = {&c, options.seed, {}};
  const Key key = {how, numerics};
  const auto found = kept.results.find(key);
  if (found != kept.results.end()) return found->second;
  RunOptions o;
  o.backend = guarded(mica_backend_ref(), Role::kOracle);
  o.role = Role::kOracle;
  o.device = how.empty() ? "ref" : "ref:" + how;
  o.seed = options.seed;
  impose_numerics(Role::kOracle, numerics);
  RunResult r = run_case(c, o);
  const std::string complaint = guards_complaint(Role::kOracle);
  if (r.status == MICA_OK && !complaint.empty()) r.status = MICA_INTERNAL, r.text = complaint;
  return kept.results.emplace(key, std::move(r)).first->second;
}

}  // namespace mica::conformance
