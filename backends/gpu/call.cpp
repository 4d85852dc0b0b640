// Binding a partition's nodes to device addresses.
#include "backends/gpu/call.h"

namespace mica::gpu {
namespace {

// Stands for a buffer's address before there is one. What an address is modulo 16 is known from the
// beginning: buffers, and the places in them that the core gives to whole values, are multiples of
// 16 (of 256, but for weights and guarded buffers), and a view's offset in its value does not
// change.
constexpr uint64_t kPresent = 256;

void bind_value(const mica_b_partition& p, uint32_t index, const uint64_t* bases, Tensor& out) {
  out = Tensor{};
  if (index == MICA_B_NONE) return;
  const mica_b_value& v = p.values[index];
  out.dtype = v.dtype;
  out.layout = v.layout;
  out.rank = v.rank;
  out.storage = v.storage;
  for (uint32_t i = 0; i < 4; ++i) out.dim[i] = v.dim[i], out.stride[i] = v.stride[i];
  if (v.extent != MICA_B_NONE)
    out.live = bases != nullptr ? bases[1] + p.extents[v.extent].offset : kPresent;
  if (v.storage == MICA_B_UNPLACED) return;
  out.address = bases != nullptr ? bases[v.buffer] + v.offset : kPresent + v.offset % 16;
}

void bind_node(const mica_b_partition& p, uint32_t i_node, const uint64_t* bases,
               const void* device, Call& out) {
  const mica_b_node& node = p.nodes[i_node];
  out = Call{};
  out.op = node.op;
  out.n_in = node.n_inputs;
  out.args = node.args;
  out.device = device;
  for (uint32_t i = 0; i < node.n_inputs; ++i) bind_value(p, node.input[i], bases, out.in[i]);
  bind_value(p, node.output, bases, out.out);
}

}  // namespace

mica_status bind(const mica_b_partition& partition, UnitRef unit, const uint64_t* bases,
                 const void* device, Bound& out, Writer& reason) {
  out.call = Call{};
  out.call.device = device;
  out.name = nullptr;
  if (unit.region == MICA_B_NONE) {
    bind_node(partition, unit.node, bases, device, out.call);
    if (is_view_op(out.call.op)) return MICA_OK;
    out.name = op_name(out.call.op);
    if (out.name == nullptr) reason.put("op ", out.call.op, " is unknown here");
    return out.name != nullptr ? MICA_OK : MICA_UNSUPPORTED;
  }
  const mica_b_region& region = partition.regions[unit.region];
  if (region.n_members > kMaxMembers) {
    reason.put("it has ", region.n_members, " members, more than ", kMaxMembers);
    return MICA_UNSUPPORTED;
  }
  for (uint32_t i = 0; i < region.n_members; ++i)
    bind_node(partition, region.members[i], bases, device, out.members[i]);
  out.call.n_members = region.n_members;
  out.name = region.fusion;
  out.fix();
  return MICA_OK;
}

}  // namespace mica::gpu
