// The CUDA runtime's functions that the backend calls, as a table: a test puts its own there, and
// runs every host path, faults included, on a machine without a GPU.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace mica::cuda {

// Small writes wait in pinned memory until the next launch or read: one kernel puts them all where
// they belong. They overlap nowhere.
struct PendingWrite {
  uint64_t dst;     // device address
  uint32_t offset;  // of the bytes, from the mailbox's start; a multiple of 16
  uint32_t bytes;
};
constexpr uint32_t kMaxPending = 64;
struct Mailbox {
  uint32_t n, unused[3];
  PendingWrite writes[kMaxPending];
};

struct Driver {
  cudaError_t (*get_device_count)(int* out_n);
  cudaError_t (*get_device_properties)(cudaDeviceProp* out, int index);
  cudaError_t (*set_device)(int index);
  cudaError_t (*mem_get_info)(size_t* out_free, size_t* out_total);
  cudaError_t (*malloc)(void** out, size_t bytes);
  cudaError_t (*free)(void* p);
  cudaError_t (*host_alloc)(void** out, size_t bytes, unsigned int flags);
  cudaError_t (*free_host)(void* p);
  cudaError_t (*memcpy_async)(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                              cudaStream_t stream);
  cudaError_t (*memset_async)(void* dst, int value, size_t bytes, cudaStream_t stream);
  cudaError_t (*stream_create)(cudaStream_t* out, unsigned int flags);
  cudaError_t (*stream_destroy)(cudaStream_t stream);
  cudaError_t (*stream_synchronize)(cudaStream_t stream);
  cudaError_t (*begin_capture)(cudaStream_t stream, cudaStreamCaptureMode mode);
  cudaError_t (*end_capture)(cudaStream_t stream, cudaGraph_t* out);
  cudaError_t (*event_create)(cudaEvent_t* out, unsigned int flags);
  cudaError_t (*event_destroy)(cudaEvent_t event);
  cudaError_t (*event_record)(cudaEvent_t event, cudaStream_t stream);
  cudaError_t (*event_query)(cudaEvent_t event);
  cudaError_t (*graph_instantiate)(cudaGraphExec_t* out, cudaGraph_t graph,
                                   unsigned long long flags);
  cudaError_t (*graph_upload)(cudaGraphExec_t exec, cudaStream_t stream);
  cudaError_t (*graph_launch)(cudaGraphExec_t exec, cudaStream_t stream);
  cudaError_t (*graph_destroy)(cudaGraph_t graph);
  cudaError_t (*graph_exec_destroy)(cudaGraphExec_t exec);
  cudaError_t (*func_get_attributes)(cudaFuncAttributes* out, const void* kernel);
  cudaError_t (*func_set_attribute)(const void* kernel, cudaFuncAttribute attribute, int value);
  cudaError_t (*launch)(const cudaLaunchConfig_t* config, const void* kernel, void** args);
  cudaError_t (*get_last_error)();
  const char* (*error_text)(cudaError_t error);
  // Not of the runtime: the kernel that empties a mailbox (scatter.cu).
  cudaError_t (*scatter)(const Mailbox* mailbox, cudaStream_t stream);
  // The function of that name of the CUDA driver itself, as of CUDA 12.0; nullptr: there is none.
  void* (*entry_point)(const char* name) = nullptr;
  // Tells the runtime of the kernels' code; before the first device is opened. nullptr: it knows.
  void (*load_code)() = nullptr;
};

extern const Driver kRuntime;  // the CUDA runtime itself
cudaError_t scatter(const Mailbox* mailbox, cudaStream_t stream);
// Kernels for func_get_attributes. Without code for sm_90a wgmma's has no shared memory, and does
// nothing.
const void* scatter_kernel();
const void* wgmma_kernel();

}  // namespace mica::cuda
