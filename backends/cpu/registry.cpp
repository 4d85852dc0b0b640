// The kernel tables, one line a file in kernels/ and instruction set, and the choice among them.
#include "backends/cpu/registry.h"

#include <cstring>

#include "backends/op_name.h"

#define MICA_ISA_BEGIN(isa) namespace mica::cpu::isa {
#define MICA_KERNEL(isa, name) extern const KernelList kernels_##name;
#define MICA_ISA_END(isa) }
#include "cpu_kernels.def"
#undef MICA_ISA_BEGIN
#undef MICA_KERNEL
#undef MICA_ISA_END

namespace mica::cpu {
namespace {

struct Entry {
  Isa isa;
  const char* name;
  const KernelList* list;
};
constexpr Entry kEntries[] = {
#define MICA_ISA_BEGIN(isa)
#define MICA_KERNEL(isa, name) {Isa::isa, #name, &isa::kernels_##name},
#define MICA_ISA_END(isa)
#include "cpu_kernels.def"
#undef MICA_ISA_BEGIN
#undef MICA_KERNEL
#undef MICA_ISA_END
};

const KernelList* find_kernels(Isa isa, const char* name) {
  for (const Entry& e : kEntries) {
    if (e.isa == isa && std::strcmp(e.name, name) == 0) return e.list;
  }
  return nullptr;
}

// What stands for data in supports, claims and query: not nullptr, never read.
char* const kPresent = reinterpret_cast<char*>(uintptr_t{64});

void bind_value(const mica_b_partition& p, uint32_t index, mica_b_buffer* const* buffers,
                Tensor& out) {
  out = Tensor{};
  if (index == MICA_B_NONE) return;
  const mica_b_value& v = p.values[index];
  out.dtype = v.dtype;
  out.layout = v.layout;
  for (uint32_t i = 0; i < 4; ++i) {
    out.dim[i] = v.dim[i];
    out.stride[i] = v.stride[i];
  }
  if (v.storage == MICA_B_UNPLACED) return;
  out.data = buffers == nullptr ? kPresent : buffers[v.buffer]->data + v.offset;
}

void bind_node(const mica_b_device& device, const mica_b_partition& p, uint32_t i_node,
               mica_b_buffer* const* buffers, Call& out) {
  const mica_b_node& node = p.nodes[i_node];
  out = Call{};
  out.op = node.op;
  out.n_in = node.n_inputs;
  out.args = node.args;
  out.features = &device.features;
  for (uint32_t i = 0; i < node.n_inputs; ++i) bind_value(p, node.input[i], buffers, out.in[i]);
  bind_value(p, node.output, buffers, out.out);
}

bool named(const Kernel& kernel, const char* variant) {
  return std::strcmp(kernel.variant, variant) == 0;
}

// The wanted variant's first row that says yes, else the first of all rows that does.
mica_status choose(const KernelList& list, const char* variant, Bound& bound, Writer& reason) {
  const char* why = nullptr;
  for (int pass = variant != nullptr ? 0 : 1; pass < 2; ++pass) {
    for (uint32_t i = 0; i < list.n; ++i) {
      const Kernel& row = list.rows[i];
      if (pass == 0 && !named(row, variant)) continue;
      const char* no = row.supports != nullptr ? row.supports(bound.call) : nullptr;
      if (no == nullptr) {
        bound.kernel = &row;
        return MICA_OK;
      }
      if (why == nullptr) why = no;
    }
  }
  reason.put(why != nullptr ? why : "its kernel list is empty");
  return MICA_UNSUPPORTED;
}

}  // namespace

mica_status bind(const mica_b_device& device, const mica_b_partition& partition, UnitRef unit,
                 mica_b_buffer* const* buffers, Bound& out, Writer& reason) {
  out.kernel = nullptr;
  out.call = Call{};
  out.call.features = &device.features;
  const char* name = nullptr;
  if (unit.region != MICA_B_NONE) {
    const mica_b_region& region = partition.regions[unit.region];
    name = region.fusion;
    if (region.n_members > kMaxMembers) {
      reason.put("it has ", region.n_members, " members, more than ", kMaxMembers);
      return MICA_UNSUPPORTED;
    }
    for (uint32_t i = 0; i < region.n_members; ++i) {
      bind_node(device, partition, region.members[i], buffers, out.members[i]);
    }
    out.call.n_members = region.n_members;
    out.fix();
  } else {
    bind_node(device, partition, unit.node, buffers, out.call);
    if (is_view_op(out.call.op)) return MICA_OK;
    name = op_name(out.call.op);
  }
  const KernelList* list = name != nullptr ? find_kernels(device.isa, name) : nullptr;
  if (list == nullptr) {
    reason.put("the cpu backend has no kernel ");
    if (name != nullptr) reason.put("named ", name);
    return MICA_UNSUPPORTED;
  }
  return choose(*list, partition.variant, out, reason);
}

}  // namespace mica::cpu
