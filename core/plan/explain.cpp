// mica_plan_explain: what runs where, which regions were claimed, and the memory, as text.
#include "core/plan/session.h"

using mica::Bytes;
using mica::Writer;

namespace {

void put_shape(Writer& w, const mica_b_value& v) {
  w.put(mica::dtype_info(v.dtype).name, " [");
  for (uint32_t i = 0; i < v.rank; ++i)
    w.put(i > 0 ? ", " : "", i + 1 == v.rank && v.extent != MICA_B_NONE ? "<=" : "", v.dim[i]);
  w.put("]");
}

void put_unit(Writer& w, const mica_plan& p, uint32_t i) {
  const mica_b_unit& u = p.units[i];
  const mica_b_node& n = p.nodes[u.node];
  w.put(u.barrier != 0 ? "- " : "  ");  // a dash begins a wave
  if (u.region == MICA_B_NONE) w.put(mica::find_op(n.op)->name);
  if (u.region != MICA_B_NONE)
    w.put(p.regions[u.region].fusion, " (", p.regions[u.region].n_members, " nodes)");
  if (n.name[0] != '\0') w.put(" ", mica::quoted(n.name));
  const char* before = " -> ";
  for (const uint32_t node : p.nodes_of(u)) {
    const mica_b_value& v = p.values[p.nodes[node].output];
    if (v.storage == MICA_B_UNPLACED) continue;
    w.put(before);
    put_shape(w, v);
    if (v.storage == MICA_B_TEMP && v.layout != 0) w.put(" as layout ", v.layout);
    before = ", ";
  }
  w.put("  [", p.kernels[i].kernel, "]");
  if (u.workspace_bytes != 0) w.put(" workspace ", Bytes{u.workspace_bytes});
  mica::put_device(w, p, i);
  w.put("\n");
}

}  // namespace

extern "C" mica_status mica_plan_explain(const mica_plan* plan, char* buffer, size_t capacity,
                                         size_t* out_size) {
  if (plan == nullptr) return MICA_INVALID_ARGUMENT;
  if (buffer == nullptr && capacity != 0) return plan->session->error().null("buffer");
  const mica_plan& p = *plan;
  uint32_t n_waves = 0;
  for (const mica_b_unit& u : p.units) n_waves += u.barrier != 0 ? 1 : 0;
  Writer w(buffer, capacity);
  const mica_device_info& d = p.session->device->info;
  w.put("device ", d.backend, " (", d.name, "): ", p.partition.n_nodes, " nodes in ");
  w.put(p.partition.n_units, " units and ", n_waves, " waves; ", p.partition.n_regions,
        " regions claimed\n");
  w.put("arena ", Bytes{p.arena_bytes}, ", largest workspace ", Bytes{p.workspace_bytes}, "\n");
  for (uint32_t i = 0; i < p.units.size(); ++i) put_unit(w, p, i);
  mica::put_fallbacks(w, p);
  if (!p.refusals.empty()) w.put("not claimed:\n");
  for (const mica::PlanRefusal& r : p.refusals) {
    w.put(r.fusion, " at ", mica::quoted(r.where));
    if (r.n > 1) w.put(" and ", r.n - 1, " more");
    w.put(": ", p.reasons.data() + r.reason, "\n");
  }
  if (out_size != nullptr) *out_size = w.size();
  return MICA_OK;
}
