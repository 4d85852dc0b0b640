// mica_plan_explain: what runs where, which regions were claimed, and the memory, as text.
#include "core/plan/session.h"

using mica::Writer;

namespace {

void put_shape(Writer& w, const mica_b_value& v) {
  w.put(mica::find_dtype(static_cast<uint32_t>(v.dtype))->info.name).put(" [");
  for (uint32_t i = 0; i < v.rank; ++i) {
    if (i > 0) w.put(", ");
    if (i + 1 == v.rank && v.extent != MICA_B_NONE) w.put("<=");
    w.put(v.dim[i]);
  }
  w.put("]");
}

void put_unit(Writer& w, const mica_plan& p, uint32_t i) {
  const mica_b_unit& u = p.units[i];
  const mica_b_node& n = p.nodes[u.node];
  w.put(u.barrier != 0 ? "- " : "  ");  // a dash begins a wave
  if (u.region != MICA_B_NONE) {
    w.put(p.regions[u.region].fusion).put(" (").put(p.regions[u.region].n_members);
    w.put(" nodes)");
  } else {
    w.put(mica::find_op(n.op)->name);
  }
  if (n.name[0] != '\0') w.put(" ").put(mica::quoted(n.name));
  const char* before = " -> ";
  const auto put_output = [&](const mica_b_node& made) {
    const mica_b_value& v = p.values[made.output];
    if (v.storage == MICA_B_UNPLACED) return;
    w.put(before);
    put_shape(w, v);
    if (v.storage == MICA_B_TEMP && v.layout != 0) w.put(" as layout ", v.layout);
    before = ", ";
  };
  if (u.region == MICA_B_NONE) put_output(n);
  for (uint32_t k = 0; u.region != MICA_B_NONE && k < p.regions[u.region].n_members; ++k)
    put_output(p.nodes[p.regions[u.region].members[k]]);
  w.put("  [").put(static_cast<const char*>(p.kernels[i].kernel)).put("]");
  if (u.workspace_bytes != 0) w.put(" workspace ").put_bytes(u.workspace_bytes);
  mica::put_device(w, p, i);
  w.put("\n");
}

}  // namespace

extern "C" mica_status mica_plan_explain(const mica_plan* plan, char* buffer, size_t capacity,
                                         size_t* out_size) {
  if (plan == nullptr) return MICA_INVALID_ARGUMENT;
  if (buffer == nullptr && capacity != 0) return plan->session->error().null("buffer");
  const mica_plan& p = *plan;
  uint32_t n_waves = 0, n_claimed = 0;
  for (const mica_b_unit& u : p.units) n_waves += u.barrier != 0 ? 1 : 0;
  for (const mica_b_region& r : p.regions) n_claimed += r.claimed;
  Writer w(buffer, capacity);
  const mica_device_info& d = p.session->device->info;
  w.put("device ").put(static_cast<const char*>(d.backend)).put(" (");
  w.put(static_cast<const char*>(d.name)).put("): ").put(static_cast<uint64_t>(p.nodes.size()));
  w.put(" nodes in ").put(static_cast<uint64_t>(p.units.size())).put(" units and ").put(n_waves);
  w.put(" waves; ").put(n_claimed).put(" regions claimed\narena ").put_bytes(p.arena_bytes);
  w.put(", largest workspace ").put_bytes(p.workspace_bytes).put("\n");
  for (uint32_t i = 0; i < p.units.size(); ++i) put_unit(w, p, i);
  mica::put_fallbacks(w, p);
  if (!p.refusals.empty()) {
    w.put("not claimed:\n");
    for (const mica::PlanRefusal& r : p.refusals) {
      w.put(r.fusion, " at ").put(mica::quoted(r.where));
      if (r.n > 1) w.put(" and ", r.n - 1, " more");
      w.put(": ", p.reasons.data() + r.reason, "\n");
    }
  }
  if (out_size != nullptr) *out_size = w.size();
  return MICA_OK;
}
