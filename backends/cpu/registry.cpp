// The kernel tables, one line a file in kernels/ and instruction set, and the choice among them.
#include "backends/cpu/registry.h"

#include <cstring>

#include "backends/choose.h"
#include "backends/known_args_check.h"

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
  out.storage = v.storage;
  for (uint32_t i = 0; i < 4; ++i) {
    out.dim[i] = v.dim[i];
    out.stride[i] = v.stride[i];
  }
  out.max_slices[0] = v.dim[2], out.max_slices[1] = v.dim[3];
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

// The unit's call, with maxima, and the kernels of its name; `out_list` nullptr: nothing runs
// (views).
mica_status bind_call(const mica_b_device& device, const mica_b_partition& partition, UnitRef unit,
                      mica_b_buffer* const* buffers, Call* members, Call& out,
                      const KernelList** out_list, Writer& reason) {
  out = Call{};
  out.features = &device.features;
  *out_list = nullptr;
  const char* name = nullptr;
  if (unit.region != MICA_B_NONE) {
    const mica_b_region& region = partition.regions[unit.region];
    name = region.fusion;
    if (region.n_members > kMaxMembers) {
      reason.put("it has ", region.n_members, " members, more than ", kMaxMembers);
      return MICA_UNSUPPORTED;
    }
    for (uint32_t i = 0; i < region.n_members; ++i) {
      bind_node(device, partition, region.members[i], buffers, members[i]);
    }
    out.n_members = region.n_members;
    out.members = members;
  } else {
    bind_node(device, partition, unit.node, buffers, out);
    if (is_view_op(out.op)) return MICA_OK;
    name = op_name(out.op);
  }
  *out_list = name != nullptr ? find_kernels(device.isa, name) : nullptr;
  if (*out_list == nullptr) {
    reason.put("the cpu backend has no kernel ");
    if (name != nullptr) reason.put("named ", name);
    return MICA_UNSUPPORTED;
  }
  return knows_args((*out_list)->known, partition, unit.node, unit.region, reason)
             ? MICA_OK
             : MICA_UNSUPPORTED;
}

}  // namespace

mica_status bind(const mica_b_device& device, const mica_b_partition& partition, UnitRef unit,
                 mica_b_buffer* const* buffers, Call* members, Bound& out, Writer& reason) {
  out.kernel = nullptr;
  const KernelList* list = nullptr;
  MICA_TRY(bind_call(device, partition, unit, buffers, members, out.call, &list, reason));
  if (list == nullptr) return MICA_OK;
  const auto find = [&](const char* name) { return find_kernels(device.isa, name); };
  out.kernel = choose_row(*list, out.call, partition.variant, find, reason);
  return out.kernel != nullptr ? MICA_OK : MICA_UNSUPPORTED;
}

const char* variant(const mica_b_device& device, const mica_b_partition& partition, UnitRef unit,
                    uint32_t i) {
  char text[1];
  Writer reason(text, sizeof text);
  Call members[kMaxMembers], call;
  const KernelList* list = nullptr;
  if (bind_call(device, partition, unit, nullptr, members, call, &list, reason) != MICA_OK ||
      list == nullptr)
    return nullptr;
  return nth_variant(*list, call, i);
}

namespace {

// The nodes of a unit.
struct Members {
  const uint32_t* nodes;
  uint32_t n;
};
Members members_of(const mica_b_partition& p, const mica_b_unit& u) {
  if (u.region == MICA_B_NONE) return {&u.node, 1};
  return {p.regions[u.region].members, p.regions[u.region].n_members};
}

// Whether any of the unit's nodes but input 1 of its first reads the value.
bool reads_otherwise(const mica_b_partition& p, const Members& m, uint32_t value) {
  for (uint32_t i = 0; i < m.n; ++i) {
    const mica_b_node& node = p.nodes[m.nodes[i]];
    for (uint32_t k = 0; k < node.n_inputs; ++k)
      if (node.input[k] == value && (i != 0 || k != 1)) return true;
  }
  return false;
}

}  // namespace

void value_layout(const mica_b_device& device, const mica_b_partition& p, uint32_t value,
                  uint32_t* out_layout, uint64_t* out_bytes) {
  const mica_b_value& v = p.values[value];
  if (v.dtype != MICA_F32 || v.dim[1] == 1 || v.dim[2] != 1 || v.dim[3] != 1) return;
  uint32_t layout = kLayoutPlain;
  uint64_t bytes = 0;
  bool made = false;
  for (uint32_t u = 0; u < p.n_units; ++u) {
    const Members m = members_of(p, p.units[u]);
    const bool makes = p.nodes[m.nodes[m.n - 1]].output == value;
    if (reads_otherwise(p, m, value)) return;
    if (!makes && p.nodes[m.nodes[0]].input[1] != value) continue;
    char text[1];
    Writer reason(text, sizeof text);
    Bound bound;
    Call members[kMaxMembers];
    const UnitRef ref = {p.units[u].node, p.units[u].region};
    if (bind(device, p, ref, nullptr, members, bound, reason) != MICA_OK) return;
    if (bound.kernel == nullptr) return;
    if (makes) {
      made = bound.kernel->makes_panels;
      if (!made) return;
      continue;
    }
    Call& matmul = bound.call.n_members > 0 ? members[0] : bound.call;
    if (bound.kernel->panel_bytes == nullptr) return;
    if (layout == kLayoutPlain) layout = kLayoutPanels + matmul.in[0].dtype;
    matmul.in[1].layout = layout;
    bytes = bound.kernel->panel_bytes(bound.call);
    if (bytes == 0 || !runs(*bound.kernel, bound.call, reason)) return;
  }
  if (!made || layout == kLayoutPlain) return;
  *out_layout = layout;
  *out_bytes = bytes;
}

uint32_t args_bytes(const mica_b_device& device, uint32_t op) {
  const char* name = op_name(op);
  const KernelList* list = name != nullptr ? find_kernels(device.isa, name) : nullptr;
  return list != nullptr ? known_bytes(list->known, op) : MICA_B_NONE;
}

}  // namespace mica::cpu
