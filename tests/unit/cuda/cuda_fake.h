// A CUDA runtime for tests: two devices whose memory is the host's, that move bytes and count
// everything but run no kernels. Every fault there is can be ordered from it.
#pragma once
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "backends/cuda/device.h"

namespace mica::test {

struct FakeCuda {
  int n_devices = 2;
  int major = 9, minor = 0;
  int n_sms = 4;
  uint64_t free_bytes = 512 << 20;
  cudaError_t count_error = cudaSuccess;

  int current = 0;
  int64_t calls = 0;
  int64_t fail_call = -1;               // this call fails …
  cudaError_t fail_with = cudaSuccess;  // … with this …
  bool fail_for_ever = false;           // … and so do all later ones of its device
  cudaError_t alloc_error = cudaSuccess;
  cudaError_t launch_error = cudaSuccess;  // of graph launches
  int64_t queries_until_done = 0;          // after a launch, events are not ready so often
  std::map<int, cudaError_t> fault;        // device -> what all its calls answer
  cudaError_t step_fault = cudaSuccess;    // what the next step ends with
  cudaError_t last_error = cudaSuccess;    // stays until asked for

  std::map<void*, size_t> memory, pinned;
  std::set<void*> handles;  // streams, events, graphs
  bool capturing = false;
  int64_t pending_queries = 0;  // events are not ready so often
  std::function<void(int64_t)> on_pending;
  std::function<void(const void*)> on_launch;  // of a kernel: gets its struct of arguments
  int64_t n_malloc = 0, n_host_alloc = 0, n_scatter = 0, n_copies = 0, n_launches = 0,
          n_instantiated = 0, n_captured = 0, n_attributes = 0, n_syncs = 0;
};
inline FakeCuda fake;

// What every call begins with; `device` is the one it is about.
inline cudaError_t fake_call(int device = fake.current) {
  cudaError_t e = cudaSuccess;
  if (fake.calls++ == fake.fail_call) {
    e = fake.fail_with;
    if (fake.fail_for_ever) fake.fault[device] = e;
  }
  const auto it = fake.fault.find(device);
  if (it != fake.fault.end()) e = it->second;
  if (e != cudaSuccess) fake.last_error = e;
  return e;
}
#define FAKE_CALL()                                     \
  do {                                                  \
    const cudaError_t fake_error_ = fake_call();        \
    if (fake_error_ != cudaSuccess) return fake_error_; \
  } while (0)

template <class T>
cudaError_t fake_make(T* out) {
  FAKE_CALL();
  void* p = std::malloc(1);
  fake.handles.insert(p);
  *out = static_cast<T>(p);
  return cudaSuccess;
}
template <class T>
cudaError_t fake_drop(T handle) {
  EXPECT_EQ(fake.handles.erase(handle), 1u);
  std::free(handle);
  return fake_call();
}
inline cudaError_t fake_fail(cudaError_t e) { return fake.last_error = e; }

// Of a kernel or a memset: into the graph under capture, or run.
inline void fake_put() {
  if (fake.capturing) {
    ++fake.n_captured;
  } else {
    ++fake.n_launches;
  }
}

inline cudaError_t fake_host_alloc(void** out, size_t bytes, unsigned) {
  FAKE_CALL();
  EXPECT_FALSE(fake.capturing);
  ++fake.n_host_alloc;
  *out = std::malloc(bytes);
  fake.pinned[*out] = bytes;
  return cudaSuccess;
}

inline const cuda::Driver kFakeDriver = {
    [](int* out) {  // get_device_count
      *out = fake.n_devices;
      return fake.count_error == cudaSuccess ? cudaSuccess : fake_fail(fake.count_error);
    },
    [](cudaDeviceProp* out, int index) {  // get_device_properties
      const cudaError_t e = fake_call(index);
      if (e != cudaSuccess) return e;
      *out = {};
      std::strcpy(out->name, index == 0 ? "Fake 0" : "Fake 1");
      out->major = fake.major, out->minor = fake.minor;
      out->multiProcessorCount = fake.n_sms;
      out->sharedMemPerBlockOptin = 227 << 10;
      out->totalGlobalMem = 1 << 30;
      return cudaSuccess;
    },
    [](int index) {  // set_device
      fake.current = index;
      return cudaSuccess;
    },
    [](size_t* out_free, size_t* out_total) {  // mem_get_info
      FAKE_CALL();
      *out_free = fake.free_bytes, *out_total = 1 << 30;
      return cudaSuccess;
    },
    [](void** out, size_t bytes) {  // malloc
      FAKE_CALL();
      if (fake.alloc_error != cudaSuccess) return fake_fail(fake.alloc_error);
      EXPECT_FALSE(fake.capturing);
      ++fake.n_malloc;
      *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
      fake.memory[*out] = bytes;
      return cudaSuccess;
    },
    [](void* p) {  // free
      if (p == nullptr) return cudaSuccess;
      EXPECT_EQ(fake.memory.erase(p), 1u);
      std::free(p);
      return fake_call();
    },
    fake_host_alloc,
    [](void* p) {  // free_host
      EXPECT_EQ(fake.pinned.erase(p), 1u);
      std::free(p);
      return fake_call();
    },
    [](void* dst, const void* src, size_t bytes, cudaMemcpyKind, cudaStream_t) {  // memcpy_async
      FAKE_CALL();
      ++fake.n_copies;
      std::memcpy(dst, src, bytes);
      return cudaSuccess;
    },
    [](void* dst, int value, size_t bytes, cudaStream_t) {  // memset_async
      FAKE_CALL();
      fake_put();
      if (!fake.capturing) std::memset(dst, value, bytes);
      return cudaSuccess;
    },
    [](cudaStream_t* out, unsigned) { return fake_make(out); },
    [](cudaStream_t s) { return fake_drop(s); },
    [](cudaStream_t) {  // stream_synchronize
      FAKE_CALL();
      ++fake.n_syncs;
      return cudaSuccess;
    },
    [](cudaStream_t, cudaStreamCaptureMode) {  // begin_capture
      FAKE_CALL();
      EXPECT_FALSE(fake.capturing);
      fake.capturing = true;
      return cudaSuccess;
    },
    [](cudaStream_t, cudaGraph_t* out) {  // end_capture
      fake.capturing = false;
      return fake_make(out);
    },
    [](cudaEvent_t* out, unsigned) { return fake_make(out); },
    [](cudaEvent_t e) { return fake_drop(e); },
    [](cudaEvent_t, cudaStream_t) {  // event_record
      FAKE_CALL();
      EXPECT_FALSE(fake.capturing);
      return cudaSuccess;
    },
    [](cudaEvent_t) {  // event_query
      FAKE_CALL();
      if (fake.pending_queries > 0) {
        --fake.pending_queries;
        if (fake.on_pending) fake.on_pending(fake.pending_queries);
        return cudaErrorNotReady;
      }
      if (fake.step_fault == cudaSuccess) return cudaSuccess;
      fake.fault[fake.current] = fake.step_fault;  // nothing works on that device any more
      fake.step_fault = cudaSuccess;
      return fake_fail(fake.fault[fake.current]);
    },
    [](cudaGraphExec_t* out, cudaGraph_t, unsigned long long) {  // graph_instantiate
      const cudaError_t e = fake_make(out);
      fake.n_instantiated += e == cudaSuccess ? 1 : 0;
      return e;
    },
    [](cudaGraphExec_t, cudaStream_t) { return fake_call(); },  // graph_upload
    [](cudaGraphExec_t, cudaStream_t) {                         // graph_launch
      FAKE_CALL();
      if (fake.launch_error != cudaSuccess) return fake_fail(fake.launch_error);
      ++fake.n_launches;
      fake.pending_queries = fake.queries_until_done;
      return cudaSuccess;
    },
    [](cudaGraph_t g) { return fake_drop(g); },
    [](cudaGraphExec_t g) { return fake_drop(g); },
    [](cudaFuncAttributes* out, const void* kernel) {  // func_get_attributes
      FAKE_CALL();
      EXPECT_NE(kernel, nullptr);
      EXPECT_FALSE(fake.capturing);
      *out = {};
      ++fake.n_attributes;
      return cudaSuccess;
    },
    [](const void*, cudaFuncAttribute, int value) {  // func_set_attribute
      FAKE_CALL();
      EXPECT_FALSE(fake.capturing);
      EXPECT_GT(value, 0);
      return cudaSuccess;
    },
    [](const cudaLaunchConfig_t* c, const void* kernel, void** args) {  // launch
      FAKE_CALL();
      if (fake.on_launch) fake.on_launch(args[0]);
      EXPECT_NE(kernel, nullptr);
      EXPECT_GT(c->gridDim.x * c->gridDim.y * c->gridDim.z, 0u);
      EXPECT_LE(c->blockDim.x * c->blockDim.y * c->blockDim.z, 1024u);
      fake_put();
      return cudaSuccess;
    },
    []() {  // get_last_error
      const cudaError_t e = fake.last_error;
      fake.last_error = cudaSuccess;
      return e;
    },
    cudaGetErrorString,
    [](const cuda::Mailbox* m, cudaStream_t) {  // scatter
      FAKE_CALL();
      EXPECT_FALSE(fake.capturing);
      ++fake.n_scatter;
      for (uint32_t i = 0; i < m->n; ++i)
        std::memcpy(cuda::pointer(m->writes[i].dst),
                    reinterpret_cast<const char*>(m) + m->writes[i].offset, m->writes[i].bytes);
      return cudaSuccess;
    },
};
inline const cuda::Driver* fake_driver() { return &kFakeDriver; }

// The backend itself, on the fake runtime.
inline const mica_backend* fake_cuda_backend() {
  static const mica_backend table = [] {
    mica_backend b = *mica_backend_cuda();
    b.device_count = [](const mica_host*) { return cuda::device_count(*fake_driver()); };
    b.device_info = [](const mica_host* host, uint32_t i, mica_device_info* out) {
      return cuda::device_info(*fake_driver(), host, i, out);
    };
    b.device_open = [](const mica_host* host, const char* option, mica_b_device** out) {
      return cuda::device_open(*fake_driver(), host, option, out);
    };
    return b;
  }();
  return &table;
}

}  // namespace mica::test
