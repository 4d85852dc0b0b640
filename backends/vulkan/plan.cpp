// Compiling: every unit bound, its pipelines made, its dispatches recorded. Then one submission a
// step, or a few.
#include "backends/vulkan/plan.h"

#include "backends/gpu/work.h"
#include "backends/vulkan/registry.h"

namespace mica::vulkan {
namespace {

// Multiplications that a part may hold: about 10 ms of work, more on the fastest, less on the
// slowest.
double part_limit(const Device& d) {
  if (d.type == VK_PHYSICAL_DEVICE_TYPE_CPU) return 5e7;
  return d.unified ? 2e10 : 5e11;
}

constexpr size_t kAhead = 2;  // parts on the queue at a time: it never runs dry

}  // namespace

Plan::~Plan() {
  const uint64_t last_use = next_ > 0 ? parts_[next_ - 1].value : 0;
  settle(device_, last_use);
  for (const Part& part : parts_)
    device_.api.vkFreeCommandBuffers(device_.device, device_.pool, 1, &part.commands);
  constants_.close(last_use);
}

mica_status Plan::record_unit(Recorder& recorder, const mica_b_unit& unit, const uint64_t* bases,
                              Error& error) {
  gpu::Bound bound;
  char text[256];
  Writer reason(text, sizeof text);
  const Kernel* kernel = nullptr;
  const char* name = partition_.nodes[unit.node].name;
  mica_status status =
      choose_kernel(device_, partition_, {unit.node, unit.region}, bases, bound, &kernel, reason);
  if (status != MICA_OK) return error.fail(status, name, ": ", static_cast<const char*>(text));
  if (kernel == nullptr) return MICA_OK;
  bound.call.workspace = bases[0] + unit.workspace_offset;
  if (unit.barrier != 0) recorder.barrier();
  status = kernel->record(bound.call, recorder);
  if (status != MICA_OK && error.code() == MICA_OK)
    error.fail(status, name, ": ", kernel->name, " cannot be recorded");
  return status;
}

mica_status Plan::compile(mica_b_buffer* const* buffers, Error& error) {
  Vec<uint64_t> bases(device_.allocator);
  if (!bases.reserve(partition_.n_buffers) || !buffers_.reserve(partition_.n_buffers))
    return error.out_of_memory("a plan");
  for (uint32_t i = 0; i < partition_.n_buffers; ++i)
    if (!bases.push(buffers[i] != nullptr ? of(buffers[i]).address : 0) ||
        !buffers_.push(buffers[i] != nullptr ? &of(buffers[i]) : nullptr))
      return error.out_of_memory("a plan");
  Recorder recorder(device_, constants_, error);
  MICA_TRY(begin_part(recorder, error));
  double work = 0;
  for (uint32_t i = 0; i < partition_.n_units; ++i) {
    const mica_b_unit& unit = partition_.units[i];
    const double more = gpu::work_of(partition_, unit);
    if (work > 0 && work + more > part_limit(device_)) {
      MICA_TRY(recorder.end());
      MICA_TRY(begin_part(recorder, error));
      work = 0;
    }
    work += more;
    MICA_TRY(record_unit(recorder, unit, bases.data(), error));
  }
  MICA_TRY(recorder.end());
  return check_messages(device_, error);
}

mica_status Plan::begin_part(Recorder& recorder, Error& error) {
  Part part{};
  auto info =
      structure<VkCommandBufferAllocateInfo>(VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO);
  info.commandPool = device_.pool;
  info.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
  info.commandBufferCount = 1;
  const VkResult result =
      device_.api.vkAllocateCommandBuffers(device_.device, &info, &part.commands);
  if (result != VK_SUCCESS) return fail_result(result, "vkAllocateCommandBuffers", error);
  if (!parts_.push(part)) {
    device_.api.vkFreeCommandBuffers(device_.device, device_.pool, 1, &part.commands);
    return error.out_of_memory("a plan");
  }
  return recorder.begin(part.commands);
}

mica_status Plan::submit_next(Error& error) {
  Part& part = parts_[next_];
  MICA_TRY(submit_commands(device_, &part.commands, 1, part.value, error));
  ++next_;
  // Weights of another context are counted by their own device, whose thread may be at work; a plan
  // holds them until its last step is over.
  for (Buffer* b : buffers_)
    if (b != nullptr && b->device == &device_) b->last_use = part.value;
  return MICA_OK;
}

mica_status Plan::submit(Error& error) {
  if (in_flight_) return error.fail(MICA_BUSY, "a step of this plan is running");
  if (next_ > 0) MICA_TRY(wait_value(device_, parts_[next_ - 1].value, error));
  next_ = 0;
  MICA_TRY(submit_next(error));
  in_flight_ = true;
  return check_messages(device_, error);
}

mica_status Plan::submit_rest(Error& error) {
  while (next_ < parts_.size() && !cancelled()) {
    if (next_ >= kAhead) MICA_TRY(wait_value(device_, parts_[next_ - kAhead].value, error));
    MICA_TRY(submit_next(error));
  }
  return MICA_OK;
}

// What is on the queue cannot be stopped: a cancelled step is waited for, but its other parts are
// not begun.
mica_status Plan::wait(Error& error) {
  if (!in_flight_) return error.fail(MICA_INVALID_ARGUMENT, "no step of this plan is running");
  const mica_status rest = submit_rest(error);
  Error late;
  const mica_status waited = wait_value(device_, parts_[next_ - 1].value, late);
  in_flight_ = false;
  if (rest != MICA_OK) return rest;
  if (waited != MICA_OK) return error.fail(waited, late.text());
  MICA_TRY(check_messages(device_, error));
  if (cancelled()) return error.fail(MICA_CANCELLED, "the step was cancelled");
  return MICA_OK;
}

}  // namespace mica::vulkan
