// Compiling: every unit bound, its kernel chosen and captured. Running: one launch.
#include "backends/cuda/plan.h"

#define MICA_KERNEL(name)                 \
  namespace mica::cuda {                  \
  extern const KernelList kernels_##name; \
  }
#include "cuda_kernels.def"
#undef MICA_KERNEL

namespace mica::cuda {
namespace {

const KernelList* find_list([[maybe_unused]] const char* name) {
#define MICA_KERNEL(kernel) \
  if (std::strcmp(name, #kernel) == 0) return &kernels_##kernel;
#include "cuda_kernels.def"
#undef MICA_KERNEL
  return nullptr;
}

}  // namespace

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
  *out_kernel = gpu::choose(list, 1, out, partition.variant, reason);
  return *out_kernel != nullptr ? MICA_OK : MICA_UNSUPPORTED;
}

Plan::~Plan() {
  if (!device_.lost) device_.driver->set_device(device_.info.index);
  if (in_flight_ && !device_.lost) await(device_, done_, nullptr);
  if (exec_ != nullptr) device_.driver->graph_exec_destroy(exec_);
  if (done_ != nullptr) device_.driver->event_destroy(done_);
  device_.driver->get_last_error();
}

// All units in order: into the stream under capture, or, preparing, only their code to the device.
mica_status Plan::record(const uint64_t* bases, bool preparing) {
  Recorder recorder = {device_.stream, &device_.info, cudaSuccess, device_.driver,
                       preparing,      false,         true};
  for (uint32_t i = 0; i < partition_.n_units; ++i) {
    const mica_b_unit& unit = partition_.units[i];
    const char* name = partition_.nodes[unit.node].name;
    char text[240];
    Writer reason(text, sizeof text);
    Error error;
    gpu::Bound bound;
    const Kernel* kernel = nullptr;
    mica_status status = choose_kernel(device_, partition_, {unit.node, unit.region}, bases, bound,
                                       &kernel, reason);
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

mica_status Plan::capture(const uint64_t* bases) {
  const Driver& driver = *device_.driver;
  // Thread-local: other threads may go on calling CUDA meanwhile.
  MICA_TRY(check(device_, driver.begin_capture(device_.stream, cudaStreamCaptureModeThreadLocal),
                 "begin a capture"));
  const mica_status recorded = record(bases, false);
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = driver.end_capture(device_.stream, &graph);
  mica_status status = recorded;
  if (status == MICA_OK) {
    status = check(device_, ended, "end a capture");
  } else if (ended != cudaSuccess) {
    driver.get_last_error();
  }
  if (status == MICA_OK)
    status = check(device_, driver.graph_instantiate(&exec_, graph, 0), "make a graph ready");
  if (graph != nullptr) driver.graph_destroy(graph);
  if (status == MICA_OK)
    status = check(device_, driver.graph_upload(exec_, device_.stream), "upload a graph");
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
  MICA_TRY(check(device_, device_.driver->event_create(&done_, cudaEventDisableTiming),
                 "make an event"));
  MICA_TRY(record(bases.data(), true));
  return capture(bases.data());
}

mica_status Plan::submit() {
  MICA_TRY(enter(device_));
  MICA_TRY(flush(device_));
  const Driver& driver = *device_.driver;
  MICA_TRY(check(device_, driver.graph_launch(exec_, device_.stream), "launch a step"));
  MICA_TRY(check(device_, driver.event_record(done_, device_.stream), "record an event"));
  in_flight_ = true;
  return MICA_OK;
}

mica_status Plan::wait() {
  if (!in_flight_) return MICA_OK;
  in_flight_ = false;
  MICA_TRY(enter(device_));
  bool cancelled = false;
  MICA_TRY(await(device_, done_, &cancelled));
  return cancelled ? MICA_CANCELLED : MICA_OK;
}

}  // namespace mica::cuda
