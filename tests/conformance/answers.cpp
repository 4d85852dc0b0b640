#include "tests/conformance/answers.h"

#include <utility>

#include "backends/op_name.h"

namespace mica::conformance {
namespace {

const mica_backend* watched = nullptr;
std::string complaint;
std::set<std::string> variant_names;

mica_status seen(mica_status status, const char* function, const std::string& of) {
  if (status != MICA_OK && status != MICA_UNSUPPORTED && complaint.empty())
    complaint = std::string(function) + " answers status " + std::to_string(status) + " for " + of +
                "; it may answer only MICA_OK or MICA_UNSUPPORTED";
  return status;
}

mica_status supports(mica_b_device* device, const mica_b_partition* p, uint32_t node, char* reason,
                     size_t capacity) {
  const char* const op = op_name(p->nodes[node].op);
  return seen(watched->supports(device, p, node, reason, capacity), "supports",
              op != nullptr ? op : "an unknown op");
}

mica_status claims(mica_b_device* device, const mica_b_partition* p, uint32_t region, char* reason,
                   size_t capacity) {
  return seen(watched->claims(device, p, region, reason, capacity), "claims",
              p->regions[region].fusion);
}

mica_status query(mica_b_device* device, const mica_b_partition* p, uint32_t unit,
                  mica_b_need* need) {
  const char* name = nullptr;
  for (uint32_t i = 0;
       watched->variants != nullptr && (name = watched->variants(device, p, unit, i)) != nullptr;
       ++i)
    variant_names.insert(name);
  return watched->query(device, p, unit, need);
}

}  // namespace

const mica_backend* answers_watched(const mica_backend* inner) {
  static mica_backend table;
  watched = inner;
  table = *inner;
  table.supports = supports;
  table.claims = claims;
  table.query = query;
  return &table;
}

std::string answers_complaint() { return std::exchange(complaint, ""); }

std::set<std::string> take_variants() { return std::exchange(variant_names, {}); }

}  // namespace mica::conformance
