// Compiling: every unit bound, its kernel chosen and captured. Running: one launch, or a few.
#include "backends/cuda/plan.h"

#include "backends/gpu/work.h"

#define MICA_KERNEL(name)                 \
  namespace mica::cuda {                  \
  extern const KernelList kernels_##name; \
  }
#include "cuda_kernels.def"
#undef MICA_KERNEL

namespace mica::cuda {
namespace {

constexpr size_t kAhead = 2;  // parts in the stream at a time: it never runs dry

const KernelList* find_list([[maybe_unused]] const char* name) {
#define MICA_KERNEL(kernel) \
  if (std::strcmp(name, #kernel) == 0) return &kernels_##kernel;
#include "cuda_kernels.def"
#undef MICA_KERNEL
  return nullptr;
}

}  // namespace

uint32_t args_bytes(uint32_t op) {
  const char* name = op_name(op);
  const KernelList* list = name != nullptr ? find_list(name) : nullptr;
  return list != nullptr ? known_bytes(list->known, op) : MICA_B_NONE;
}

mica_status choose_kernel(const Device& device, const mica_b_partition& partition,
                          gpu::UnitRef unit, const uint64_t* bases, gpu::Bound& out,
                          const Kernel** out_kernel, Writer& reason) {
  *out_kernel = nullptr;
  MICA_TRY(gpu::bind(partition, unit, bases, &device.info, out, reason));
  if (out.name == nullptr) return MICA_OK;
  const KernelList* list = find_list(out.name);
  if (list == nullptr) {
    reason.put("the cuda backend has no kernel named ", out.name);
    return MICA_UNSUPPORTED;
  }
  if (!knows_args(list->known, partition, unit.node, unit.region, reason)) return MICA_UNSUPPORTED;
  *out_kernel = choose_row(*list, out.call, partition.variant, find_list, reason);
  return *out_kernel != nullptr ? MICA_OK : MICA_UNSUPPORTED;
}

const char* variant(const Device& device, const mica_b_partition& partition, gpu::UnitRef unit,
                    uint32_t i) {
  char text[1];
  Writer reason(text, sizeof text);
  gpu::Bound bound;
  if (gpu::bind(partition, unit, nullptr, &device.info, bound, reason) != MICA_OK) return nullptr;
  const KernelList* list = bound.name != nullptr ? find_list(bound.name) : nullptr;
  return list != nullptr ? nth_variant(*list, bound.call, i) : nullptr;
}

Plan::~Plan() {
  if (!device_.lost) device_.driver->set_device(device_.info.index);
  // When the wait fails, nothing may be left in the stream all the same.
  if (in_flight_ && !device_.lost && await(device_, parts_[next_ - 1].done, nullptr) != MICA_OK)
    settle();
  for (const Part& part : parts_) {
    if (part.exec != nullptr) device_.driver->graph_exec_destroy(part.exec);
    if (part.done != nullptr) device_.driver->event_destroy(part.done);
  }
  device_.driver->get_last_error();
}

// The units from `first` on whose work a part may hold, at least one.
Plan::Range Plan::next_part(uint32_t first) const {
  Range r = {first, first};
  for (double work = 0; r.end < partition_.n_units; ++r.end) {
    work += gpu::work_of(partition_, partition_.units[r.end]);
    if (r.end > first && work > device_.part_work) break;
  }
  return r;
}

// Units in order: into the stream under capture, or, preparing, only their code to the device.
mica_status Plan::record(const uint64_t* bases, Range units, bool preparing) {
  Recorder recorder = {device_.stream, &device_.info, cudaSuccess, device_.driver,
                       preparing,      false,         true};
  for (uint32_t i = units.first; i < units.end; ++i) {
    const mica_b_unit& unit = partition_.units[i];
    const char* name = partition_.nodes[unit.node].name;
    char text[240];
    Writer reason(text, sizeof text);
    Error error;
    gpu::Bound bound;
    const Kernel* kernel = nullptr;
    mica_status status =
        choose_kernel(device_, partition_, {unit.node, unit.region}, bases, bound, &kernel, reason);
    if (status != MICA_OK)
      return device_.fail((error.fail(status, name, ": ", static_cast<const char*>(text)), error));
    if (kernel == nullptr) continue;
    bound.call.workspace = bases[0] + unit.workspace_offset;
    status = kernel->record(bound.call, recorder);
    if (status == MICA_OK && recorder.error == cudaSuccess) continue;
    reason.put("launch ", kernel->name, " '", name, "'");
    if (recorder.error != cudaSuccess) return check(device_, recorder.error, text);
    return device_.fail((error.fail(status, "failed to ", static_cast<const char*>(text)), error));
  }
  return MICA_OK;
}

mica_status Plan::capture(const uint64_t* bases, Range units) {
  const Driver& driver = *device_.driver;
  if (!parts_.push({})) {
    Error error;
    return device_.fail((error.out_of_memory("a plan"), error));
  }
  Part& part = parts_.back();
  MICA_TRY(
      check(device_, driver.event_create(&part.done, cudaEventDisableTiming), "make an event"));
  // Thread-local: other threads may go on calling CUDA meanwhile.
  MICA_TRY(check(device_, driver.begin_capture(device_.stream, cudaStreamCaptureModeThreadLocal),
                 "begin a capture"));
  const mica_status recorded = record(bases, units, false);
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = driver.end_capture(device_.stream, &graph);
  mica_status status = recorded;
  if (status == MICA_OK) {
    status = check(device_, ended, "end a capture");
  } else if (ended != cudaSuccess) {
    driver.get_last_error();
  }
  if (status == MICA_OK)
    status = check(device_, driver.graph_instantiate(&part.exec, graph, 0), "make a graph ready");
  if (graph != nullptr) driver.graph_destroy(graph);
  if (status == MICA_OK)
    status = check(device_, driver.graph_upload(part.exec, device_.stream), "upload a graph");
  return status;
}

mica_status Plan::compile(mica_b_buffer* const* buffers) {
  MICA_TRY(enter(device_));
  Error error;
  Vec<uint64_t> bases(device_.allocator);
  if (!bases.resize(partition_.n_buffers < 1 ? 1 : partition_.n_buffers))
    return device_.fail((error.out_of_memory("a plan"), error));
  for (uint32_t i = 0; i < partition_.n_buffers; ++i) {
    if (buffers[i] == nullptr) continue;
    bases[i] = buffers[i]->address;
    // Weights of another context on this device: what it wrote must be there. Its stream may be
    // waited for by any thread.
    const Device& owner = *buffers[i]->device;
    if (&owner == &device_) continue;
    MICA_TRY(check(device_, device_.driver->stream_synchronize(owner.stream), "load weights"));
  }
  // What a step needs is there before the first one runs.
  MICA_TRY(open_large(device_));
  MICA_TRY(record(bases.data(), {0, partition_.n_units}, true));
  uint32_t first = 0;
  do {
    const Range units = next_part(first);
    MICA_TRY(capture(bases.data(), units));
    first = units.end;
  } while (first < partition_.n_units);
  return MICA_OK;
}

mica_status Plan::launch_next() {
  const Driver& driver = *device_.driver;
  const Part& part = parts_[next_];
  MICA_TRY(check(device_, driver.graph_launch(part.exec, device_.stream), "launch a step"));
  ++next_;
  return check(device_, driver.event_record(part.done, device_.stream), "record an event");
}

// After a failure: nothing of the step is in the stream any more.
void Plan::settle() {
  if (device_.lost || next_ == 0) return;
  device_.driver->stream_synchronize(device_.stream);
  device_.driver->get_last_error();
}

mica_status Plan::submit() {
  MICA_TRY(enter(device_));
  MICA_TRY(flush(device_));
  next_ = 0;
  while (next_ < parts_.size() && next_ < kAhead) {
    const mica_status status = launch_next();
    if (status == MICA_OK) continue;
    settle();
    return status;
  }
  in_flight_ = true;
  return MICA_OK;
}

mica_status Plan::launch_rest(bool& cancelled) {
  while (next_ < parts_.size()) {
    cancelled = is_cancellable_ && device_.cancelled();
    if (!cancelled) MICA_TRY(await(device_, parts_[next_ - kAhead].done, flag_of(cancelled)));
    if (cancelled) return MICA_OK;
    MICA_TRY(launch_next());
  }
  return MICA_OK;
}

mica_status Plan::wait() {
  if (!in_flight_) return MICA_OK;
  in_flight_ = false;
  MICA_TRY(enter(device_));
  bool cancelled = false;
  mica_status status = launch_rest(cancelled);
  if (status == MICA_OK) status = await(device_, parts_[next_ - 1].done, flag_of(cancelled));
  if (status != MICA_OK) settle();
  return status == MICA_OK && cancelled ? MICA_CANCELLED : status;
}

}  // namespace mica::cuda
