// What the core asks a device beside supports and claims: how much of an op's args its kernels
// know, and in what form of its own it keeps a temporary.
#include "core/plan/session.h"

namespace mica {

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

// Of temporaries that no output names, that have no view and that stay on the device.
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

}  // namespace mica
