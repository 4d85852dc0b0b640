#include "tests/conformance/answers.h"

#include <utility>

namespace mica::conformance {
namespace {

const mica_backend* watched = nullptr;
std::string complaint;

const char* op_name(uint32_t op) {
  switch (op) {
#define MICA_OP(id, name, family) \
  case id:                        \
    return #name;
#define MICA_COMPOSITE(name, family)
#include "ops/ops.def"
#undef MICA_OP
#undef MICA_COMPOSITE
    default:
      return "an unknown op";
  }
}

mica_status seen(mica_status status, const char* function, const std::string& of) {
  if (status != MICA_OK && status != MICA_UNSUPPORTED && complaint.empty())
    complaint = std::string(function) + " answers status " + std::to_string(status) + " for " + of +
                "; it may answer only MICA_OK or MICA_UNSUPPORTED";
  return status;
}

mica_status supports(mica_b_device* device, const mica_b_partition* p, uint32_t node, char* reason,
                     size_t capacity) {
  return seen(watched->supports(device, p, node, reason, capacity), "supports",
              op_name(p->nodes[node].op));
}

mica_status claims(mica_b_device* device, const mica_b_partition* p, uint32_t region, char* reason,
                   size_t capacity) {
  return seen(watched->claims(device, p, region, reason, capacity), "claims",
              p->regions[region].fusion);
}

}  // namespace

const mica_backend* answers_watched(const mica_backend* inner) {
  static mica_backend table;
  watched = inner;
  table = *inner;
  table.supports = supports;
  table.claims = claims;
  return &table;
}

std::string answers_complaint() { return std::exchange(complaint, ""); }

}  // namespace mica::conformance
