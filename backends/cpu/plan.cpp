// Compiling: every unit bound, every pointer computed, everything allocated.
#include "backends/cpu/plan.h"

#include "backends/cancellable.h"

using mica::Error;
using mica::Writer;
namespace cpu = mica::cpu;

namespace {

// A thread's scratch with a line of its own at both ends: threads share none.
uint64_t apart(uint64_t bytes) { return bytes == 0 ? 0 : mica::align_up<uint64_t>(bytes, 64) + 64; }

}  // namespace

uint64_t cpu::scratch_bytes(const mica_b_device& device, const mica_b_partition& partition) {
  uint64_t most = 0;
  for (uint32_t i = 0; i < partition.n_units; ++i) {
    const mica_b_unit& unit = partition.units[i];
    char text[200];
    Writer reason(text, sizeof text);
    Bound bound;
    Call members[kMaxMembers];
    const UnitRef ref = {unit.node, unit.region};
    if (bind(device, partition, ref, nullptr, members, bound, reason) != MICA_OK) continue;
    if (bound.kernel == nullptr || bound.kernel->scratch == nullptr) continue;
    const uint64_t bytes = bound.kernel->scratch(bound.call);
    if (bytes > most) most = bytes;
  }
  return apart(most) * device.pool.n_threads();
}

mica_b_plan::mica_b_plan(mica_b_device& d, const mica_b_partition& p)
    : device_(d), partition_(p), is_cancellable_(mica::is_cancellable(p)), bound_(d.allocator),
      members_(d.allocator), works_(d.allocator), lanes_(d.allocator), stages_(d.allocator),
      patches_(d.allocator), extents_(d.allocator) {
  enter = [](cpu::Task* task, uint32_t i_thread) {
    mica_b_plan& plan = *static_cast<mica_b_plan*>(task);
    plan.walk(plan.epoch_.load(), i_thread);
  };
}

mica_b_plan::~mica_b_plan() {
  device_.pool.drain(*this);
  mica::deallocate(device_.allocator, scratch_, scratch_bytes_ * device_.pool.n_threads());
}

mica_status mica_b_plan::bind_units(mica_b_buffer* const* buffers, Error& error) {
  const auto n_members = [&](uint32_t i) {
    const uint32_t region = partition_.units[i].region;
    return region != MICA_B_NONE ? partition_.regions[region].n_members : 0;
  };
  size_t n = 0;
  for (uint32_t i = 0; i < partition_.n_units; ++i) n += n_members(i);
  if (!bound_.make(partition_.n_units) || !members_.make(n)) return error.out_of_memory("a plan");
  cpu::Call* members = members_.data();
  for (uint32_t i = 0; i < partition_.n_units; ++i) {
    const mica_b_unit& unit = partition_.units[i];
    cpu::Bound& bound = bound_[i];
    char text[200];
    Writer reason(text, sizeof text);
    const cpu::UnitRef ref = {unit.node, unit.region};
    const mica_status status = cpu::bind(device_, partition_, ref, buffers, members, bound, reason);
    if (status != MICA_OK) {
      return error.fail(status, partition_.nodes[unit.node].name, ": ", text);
    }
    members += n_members(i);
    if (bound.kernel == nullptr) continue;
    bound.call.workspace = buffers[0]->data + unit.workspace_offset;
    if (bound.kernel->scratch == nullptr) continue;
    const uint64_t bytes = bound.kernel->scratch(bound.call);
    if (bytes > scratch_bytes_) scratch_bytes_ = bytes;
  }
  scratch_bytes_ = apart(scratch_bytes_);
  const uint64_t all = scratch_bytes_ * device_.pool.n_threads();
  if (all == 0) return MICA_OK;
  scratch_ = static_cast<char*>(mica::allocate(device_.allocator, all, 64));
  return scratch_ != nullptr ? MICA_OK : error.out_of_memory("the threads' scratch");
}

// Units up to the next barrier form a group; its first phases are one stage, its second ones the
// next.
mica_status mica_b_plan::cut_stages(Error& error) {
  const uint32_t n_units = partition_.n_units;
  for (const bool fill : {false, true}) {
    uint32_t n_works = 0, n_stages = 0;
    for (uint32_t first = 0, end = 0; first < n_units; first = end) {
      uint32_t phases = 0;
      for (end = first; end < n_units; ++end) {
        if (end > first && partition_.units[end].barrier != 0) break;
        const cpu::Kernel* kernel = bound_[end].kernel;
        if (kernel != nullptr && kernel->n_phases > phases) phases = kernel->n_phases;
      }
      for (uint32_t phase = 0; phase < phases; ++phase, ++n_stages) {
        if (fill) stages_[n_stages].first = n_works;
        for (uint32_t i = first; i < end; ++i) {
          const cpu::Kernel* kernel = bound_[i].kernel;
          if (kernel == nullptr || phase >= kernel->n_phases) continue;
          if (fill) {
            works_[n_works].kernel = kernel;
            works_[n_works].call = &bound_[i].call;
            works_[n_works].phase = phase;
          }
          ++n_works;
        }
        if (fill) stages_[n_stages].end = n_works;
      }
    }
    if (fill) break;
    if (!works_.make(n_works) || !stages_.make(n_stages)) return error.out_of_memory("a plan");
  }
  const uint32_t n_threads = device_.pool.n_threads();
  n_lanes_ = n_threads < cpu::kMaxLanes ? n_threads : cpu::kMaxLanes;
  if (!lanes_.make(works_.size() * n_lanes_)) return error.out_of_memory("a plan");
  for (size_t i = 0; i < works_.size(); ++i) works_[i].lanes = &lanes_[i * n_lanes_];
  return MICA_OK;
}

mica_status mica_b_plan::collect_patches(Error& error) {
  if (!extents_.resize(partition_.n_extents)) return error.out_of_memory("a plan");
  for (int64_t& value : extents_) value = -1;
  const auto follow = [&](cpu::Tensor& tensor, uint32_t index) {
    if (index == MICA_B_NONE) return true;
    const mica_b_value& v = partition_.values[index];
    if (v.extent == MICA_B_NONE) return true;
    extents_[v.extent] = 0;
    return patches_.push({&tensor.dim[v.rank - 1], v.extent});
  };
  const auto follow_node = [&](cpu::Call& call, uint32_t i_node) {
    const mica_b_node& node = partition_.nodes[i_node];
    bool ok = follow(call.out, node.output);
    for (uint32_t i = 0; i < node.n_inputs; ++i) ok = follow(call.in[i], node.input[i]) && ok;
    return ok;
  };
  for (uint32_t i = 0; i < partition_.n_units; ++i) {
    const mica_b_unit& unit = partition_.units[i];
    bool ok = true;
    if (unit.region == MICA_B_NONE) {
      ok = follow_node(bound_[i].call, unit.node);
    } else {
      const mica_b_region& region = partition_.regions[unit.region];
      for (uint32_t j = 0; j < region.n_members; ++j) {
        // The plan's own members: a Call is const for kernels only.
        ok =
            follow_node(const_cast<cpu::Call&>(bound_[i].call.members[j]), region.members[j]) && ok;
      }
    }
    if (!ok) return error.out_of_memory("a plan");
  }
  return MICA_OK;
}

mica_status mica_b_plan::compile(mica_b_buffer* const* buffers, Error& error) {
  if (partition_.n_buffers > 1) step_block_ = buffers[1]->data;
  MICA_TRY(bind_units(buffers, error));
  MICA_TRY(cut_stages(error));
  return collect_patches(error);
}
