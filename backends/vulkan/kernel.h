// What a Vulkan kernel is: kernels/<name>.cpp (what it supports, numerics, workspace, dispatches)
// and kernels/<name>.comp (device code), of one op or fusion. CMake registers it because it exists.
//
// A line `//! variant NAME -DX=1 …` in the .comp makes a SPIR-V module <file>_NAME of it; without
// such a line the module is named like the file. Everything else is a specialization constant.
// Dispatches are recorded once, when a plan is compiled: all addresses are fixed (buffer device
// addresses in push constants), and live counts are read on the device (Tensor::live).
#pragma once
#include "backends/gpu/call.h"

namespace mica::vulkan {

using gpu::Call;
using gpu::Tensor;

// Of the device, for choosing paths. The environment can switch paths off, for tests.
struct DeviceCaps {
  uint32_t subgroup_size;                         // of a pipeline that asks for none
  uint32_t min_subgroup_size, max_subgroup_size;  // that a pipeline may ask for
  uint32_t max_shared_bytes;
  uint32_t max_invocations;  // of a workgroup
  uint32_t max_groups[3];    // of a dispatch
  uint32_t n_cores;          // 0: unknown
  bool dot;                  // accelerated 4 x int8 dot products
  bool cooperative_matrix;   // KHR, F16 x F16 -> F32, 16 x 16 x 16, subgroup scope
  bool keeps_subnormals;     // F32, in modules that ask for it
  bool plain_fragments;      // for tests: kernels for matrix units without any (fragments.glsl)
};

// A SPIR-V module built into the library.
struct Shader {
  const char* name;
  const uint32_t* words;
  uint32_t n_words;
};

constexpr uint32_t kMaxPushBytes = 128;
constexpr uint32_t kMaxSpecs = 32;

// One dispatch. Specialization constants have the ids 0, 1, 2, …; by custom 0 to 2 are the
// workgroup's size.
struct Dispatch {
  const Shader* shader;
  uint32_t spec[kMaxSpecs];
  uint32_t n_specs;
  uint32_t subgroup_size;  // required, with full subgroups; 0: whatever the driver takes
  const void* push;        // copied
  uint32_t push_bytes;
  uint32_t groups[3];
};

class Recorder;  // recorder.h
[[nodiscard]] mica_status dispatch(Recorder& recorder, const Dispatch& d);
// Between two dispatches of one kernel: the second sees what the first wrote.
void barrier(Recorder& recorder);
// Device memory that holds these bytes for as long as what is being recorded lives, at a multiple
// of 16: for arguments beyond push constants and tables that a kernel computes on the host. Equal
// bytes are kept once.
[[nodiscard]] mica_status constants(Recorder& recorder, const void* data, uint32_t bytes,
                                    uint64_t& out_address);

using Kernel = gpu::Kernel<Recorder>;
using KernelList = gpu::KernelList<Recorder>;

inline const DeviceCaps& caps_of(const Call& c) {
  return *static_cast<const DeviceCaps*>(c.device);
}

}  // namespace mica::vulkan

// The module's Shader: MICA_VULKAN_SHADER(matmul_q4_0) declares mica::vulkan::shader_matmul_q4_0.
#define MICA_VULKAN_SHADER(module)     \
  namespace mica::vulkan {             \
  extern const Shader shader_##module; \
  }
// At the end of kernels/<name>.cpp, outside namespaces: MICA_VULKAN_KERNELS(mul, rows), and of an
// op with options, or a region of such, MICA_VULKAN_KERNELS(rms_norm, rows, MICA_KNOWS(rms_norm,
// eps))
#define MICA_VULKAN_KERNELS(kernel_name, rows, ...)                         \
  namespace mica::vulkan {                                                  \
  static_assert(rows_have_names(rows));                                     \
  extern const KernelList kernels_##kernel_name;                            \
  const KernelList kernels_##kernel_name = {                                \
      #kernel_name, rows, sizeof(rows) / sizeof((rows)[0]), {__VA_ARGS__}}; \
  }
