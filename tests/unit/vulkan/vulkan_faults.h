// libvulkan's functions with failures to order: every call that returns a VkResult can be made to
// fail, and what is created is counted against what is destroyed. One static state, reset by the
// test that uses it.
#pragma once
#include <dlfcn.h>

#include <cstring>

#include "backends/vulkan/device.h"
#include "mica/device.h"

namespace mica::test {

struct VulkanFaults {
  PFN_vkGetInstanceProcAddr real = nullptr;
  PFN_vkGetDeviceProcAddr real_device = nullptr;
  uint64_t n_calls = 0;             // that can fail
  uint64_t fail_call = 0;           // the n-th one fails; 0: none
  const char* fail_name = nullptr;  // only calls of this function fail, and count
  VkResult result = VK_ERROR_OUT_OF_HOST_MEMORY;
  uint32_t n_failed = 0;
  int64_t n_alive = 0;  // objects created and not destroyed
  uint32_t n_pipelines = 0, n_submits = 0, n_allocations = 0, n_command_buffers = 0;
  uint32_t wait_timeouts = 0;  // how often vkWaitSemaphores is to time out first
  bool blind_counter = false;  // vkGetSemaphoreCounterValue says 0
  bool discrete = false;       // the device says that the host cannot reach its memory
};
inline VulkanFaults faults;

inline bool faulty(const char* name) {
  if (faults.fail_name != nullptr && std::strcmp(faults.fail_name, name) != 0) return false;
  if (++faults.n_calls != faults.fail_call) return false;
  ++faults.n_failed;
  return true;
}

// The real function, and one in front of it.
#define MICA_FAULT_RESULT(name, before_ok, ...)         \
  inline PFN_##name real_##name = nullptr;              \
  template <class... A>                                 \
  VKAPI_ATTR VkResult VKAPI_CALL fault_##name(A... a) { \
    if (faulty(#name)) return faults.result;            \
    const VkResult r = real_##name(a...);               \
    if (r == VK_SUCCESS) {                              \
      before_ok;                                        \
    }                                                   \
    return r;                                           \
  }
#define MICA_FAULT_DESTROY(name, Owner, Object)                                            \
  inline PFN_##name real_##name = nullptr;                                                 \
  inline VKAPI_ATTR void VKAPI_CALL fault_##name(Owner owner, Object object,               \
                                                 const VkAllocationCallbacks* callbacks) { \
    if (object != VK_NULL_HANDLE) --faults.n_alive;                                        \
    real_##name(owner, object, callbacks);                                                 \
  }

MICA_FAULT_RESULT(vkCreateSemaphore, ++faults.n_alive)
MICA_FAULT_RESULT(vkCreateCommandPool, ++faults.n_alive)
MICA_FAULT_RESULT(vkCreatePipelineLayout, ++faults.n_alive)
MICA_FAULT_RESULT(vkCreatePipelineCache, ++faults.n_alive)
MICA_FAULT_RESULT(vkCreateShaderModule, ++faults.n_alive)
MICA_FAULT_RESULT(vkCreateComputePipelines, (++faults.n_alive, ++faults.n_pipelines))
MICA_FAULT_RESULT(vkCreateBuffer, ++faults.n_alive)
MICA_FAULT_RESULT(vkBindBufferMemory, )
MICA_FAULT_RESULT(vkMapMemory, )
MICA_FAULT_RESULT(vkAllocateCommandBuffers, ++faults.n_command_buffers)
MICA_FAULT_RESULT(vkBeginCommandBuffer, )
MICA_FAULT_RESULT(vkEndCommandBuffer, )
MICA_FAULT_RESULT(vkQueueSubmit, ++faults.n_submits)
MICA_FAULT_RESULT(vkEnumeratePhysicalDevices, )
MICA_FAULT_DESTROY(vkDestroySemaphore, VkDevice, VkSemaphore)
MICA_FAULT_DESTROY(vkDestroyCommandPool, VkDevice, VkCommandPool)
MICA_FAULT_DESTROY(vkDestroyPipelineLayout, VkDevice, VkPipelineLayout)
MICA_FAULT_DESTROY(vkDestroyPipelineCache, VkDevice, VkPipelineCache)
MICA_FAULT_DESTROY(vkDestroyShaderModule, VkDevice, VkShaderModule)
MICA_FAULT_DESTROY(vkDestroyPipeline, VkDevice, VkPipeline)
MICA_FAULT_DESTROY(vkDestroyBuffer, VkDevice, VkBuffer)
MICA_FAULT_DESTROY(vkFreeMemory, VkDevice, VkDeviceMemory)
#undef MICA_FAULT_RESULT
#undef MICA_FAULT_DESTROY

// Of a discrete GPU: type 0 is the device's memory, type 1 the host's; both are the real type 0.
inline PFN_vkAllocateMemory real_vkAllocateMemory = nullptr;
inline VKAPI_ATTR VkResult VKAPI_CALL fault_vkAllocateMemory(VkDevice d,
                                                             const VkMemoryAllocateInfo* info,
                                                             const VkAllocationCallbacks* c,
                                                             VkDeviceMemory* out) {
  if (faulty("vkAllocateMemory")) return faults.result;
  VkMemoryAllocateInfo one = *info;
  if (faults.discrete) one.memoryTypeIndex = 0;
  const VkResult r = real_vkAllocateMemory(d, &one, c, out);
  if (r == VK_SUCCESS) ++faults.n_alive, ++faults.n_allocations;
  return r;
}
inline PFN_vkGetBufferMemoryRequirements real_vkGetBufferMemoryRequirements = nullptr;
inline VKAPI_ATTR void VKAPI_CALL fault_vkGetBufferMemoryRequirements(VkDevice d, VkBuffer b,
                                                                      VkMemoryRequirements* out) {
  real_vkGetBufferMemoryRequirements(d, b, out);
  if (faults.discrete) out->memoryTypeBits = 3;
}
inline PFN_vkGetPhysicalDeviceMemoryProperties2 real_vkGetPhysicalDeviceMemoryProperties2 = nullptr;
inline VKAPI_ATTR void VKAPI_CALL fault_vkGetPhysicalDeviceMemoryProperties2(
    VkPhysicalDevice p, VkPhysicalDeviceMemoryProperties2* out) {
  real_vkGetPhysicalDeviceMemoryProperties2(p, out);
  if (!faults.discrete) return;
  VkPhysicalDeviceMemoryProperties& m = out->memoryProperties;
  m.memoryTypeCount = m.memoryHeapCount = 2;
  m.memoryHeaps[1] = {m.memoryHeaps[0].size, 0};
  m.memoryTypes[0] = {VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, 0};
  m.memoryTypes[1] = {VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT |
                          VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
                      1};
}
inline PFN_vkGetPhysicalDeviceProperties real_vkGetPhysicalDeviceProperties = nullptr;
inline VKAPI_ATTR void VKAPI_CALL
fault_vkGetPhysicalDeviceProperties(VkPhysicalDevice p, VkPhysicalDeviceProperties* out) {
  real_vkGetPhysicalDeviceProperties(p, out);
  if (faults.discrete) out->deviceType = VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
}

inline PFN_vkCreateInstance real_vkCreateInstance = nullptr;
inline VKAPI_ATTR VkResult VKAPI_CALL fault_vkCreateInstance(const VkInstanceCreateInfo* info,
                                                             const VkAllocationCallbacks* c,
                                                             VkInstance* out) {
  if (faulty("vkCreateInstance")) return faults.result;
  const VkResult r = real_vkCreateInstance(info, c, out);
  if (r == VK_SUCCESS) ++faults.n_alive;
  return r;
}
inline PFN_vkDestroyInstance real_vkDestroyInstance = nullptr;
inline VKAPI_ATTR void VKAPI_CALL fault_vkDestroyInstance(VkInstance i,
                                                          const VkAllocationCallbacks* c) {
  --faults.n_alive;
  real_vkDestroyInstance(i, c);
}
inline PFN_vkCreateDevice real_vkCreateDevice = nullptr;
inline VKAPI_ATTR VkResult VKAPI_CALL fault_vkCreateDevice(VkPhysicalDevice p,
                                                           const VkDeviceCreateInfo* info,
                                                           const VkAllocationCallbacks* c,
                                                           VkDevice* out) {
  if (faulty("vkCreateDevice")) return faults.result;
  const VkResult r = real_vkCreateDevice(p, info, c, out);
  if (r == VK_SUCCESS) ++faults.n_alive;
  return r;
}
inline PFN_vkDestroyDevice real_vkDestroyDevice = nullptr;
inline VKAPI_ATTR void VKAPI_CALL fault_vkDestroyDevice(VkDevice d,
                                                        const VkAllocationCallbacks* c) {
  --faults.n_alive;
  real_vkDestroyDevice(d, c);
}
inline PFN_vkWaitSemaphores real_vkWaitSemaphores = nullptr;
inline VKAPI_ATTR VkResult VKAPI_CALL fault_vkWaitSemaphores(VkDevice d,
                                                             const VkSemaphoreWaitInfo* info,
                                                             uint64_t timeout) {
  if (faults.wait_timeouts > 0) {
    --faults.wait_timeouts;
    return VK_TIMEOUT;
  }
  // How often it times out depends on the machine, so only its end counts among the calls.
  const VkResult r = real_vkWaitSemaphores(d, info, timeout);
  return r != VK_TIMEOUT && faulty("vkWaitSemaphores") ? faults.result : r;
}
inline PFN_vkGetSemaphoreCounterValue real_vkGetSemaphoreCounterValue = nullptr;
inline VKAPI_ATTR VkResult VKAPI_CALL fault_vkGetSemaphoreCounterValue(VkDevice d, VkSemaphore s,
                                                                       uint64_t* out) {
  // How often it is asked depends on time, so it does not count among the calls.
  if (faults.fail_name != nullptr &&
      std::strcmp(faults.fail_name, "vkGetSemaphoreCounterValue") == 0)
    return faults.result;
  *out = 0;
  return faults.blind_counter ? VK_SUCCESS : real_vkGetSemaphoreCounterValue(d, s, out);
}

inline VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL fault_device_proc(VkDevice device,
                                                                  const char* name);

// What stands in front of a function; nullptr: nothing.
inline PFN_vkVoidFunction fault_front(const char* name, PFN_vkVoidFunction original) {
#define MICA_FRONT(function)                                      \
  if (std::strcmp(name, #function) == 0) {                        \
    real_##function = reinterpret_cast<PFN_##function>(original); \
    const PFN_##function front = fault_##function;                \
    return reinterpret_cast<PFN_vkVoidFunction>(front);           \
  }
  MICA_FRONT(vkCreateInstance)
  MICA_FRONT(vkDestroyInstance)
  MICA_FRONT(vkEnumeratePhysicalDevices)
  MICA_FRONT(vkCreateDevice)
  MICA_FRONT(vkDestroyDevice)
  MICA_FRONT(vkCreateSemaphore)
  MICA_FRONT(vkDestroySemaphore)
  MICA_FRONT(vkCreateCommandPool)
  MICA_FRONT(vkDestroyCommandPool)
  MICA_FRONT(vkCreatePipelineLayout)
  MICA_FRONT(vkDestroyPipelineLayout)
  MICA_FRONT(vkCreatePipelineCache)
  MICA_FRONT(vkDestroyPipelineCache)
  MICA_FRONT(vkCreateShaderModule)
  MICA_FRONT(vkDestroyShaderModule)
  MICA_FRONT(vkCreateComputePipelines)
  MICA_FRONT(vkDestroyPipeline)
  MICA_FRONT(vkCreateBuffer)
  MICA_FRONT(vkDestroyBuffer)
  MICA_FRONT(vkAllocateMemory)
  MICA_FRONT(vkGetBufferMemoryRequirements)
  MICA_FRONT(vkGetPhysicalDeviceMemoryProperties2)
  MICA_FRONT(vkGetPhysicalDeviceProperties)
  MICA_FRONT(vkFreeMemory)
  MICA_FRONT(vkBindBufferMemory)
  MICA_FRONT(vkMapMemory)
  MICA_FRONT(vkAllocateCommandBuffers)
  MICA_FRONT(vkBeginCommandBuffer)
  MICA_FRONT(vkEndCommandBuffer)
  MICA_FRONT(vkQueueSubmit)
  MICA_FRONT(vkWaitSemaphores)
  MICA_FRONT(vkGetSemaphoreCounterValue)
#undef MICA_FRONT
  return original;
}

inline VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL fault_instance_proc(VkInstance instance,
                                                                    const char* name) {
  const PFN_vkVoidFunction original = faults.real(instance, name);
  if (original == nullptr) return nullptr;
  if (std::strcmp(name, "vkGetDeviceProcAddr") == 0) {
    faults.real_device = reinterpret_cast<PFN_vkGetDeviceProcAddr>(original);
    return reinterpret_cast<PFN_vkVoidFunction>(fault_device_proc);
  }
  return fault_front(name, original);
}
inline VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL fault_device_proc(VkDevice device,
                                                                  const char* name) {
  const PFN_vkVoidFunction original = faults.real_device(device, name);
  return original != nullptr ? fault_front(name, original) : nullptr;
}

// The Vulkan backend on these functions. nullptr: no libvulkan here.
inline const mica_backend* faulty_vulkan() {
  faults = VulkanFaults{};
  void* library = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);  // stays
  if (library == nullptr) return nullptr;
  faults.real =
      reinterpret_cast<PFN_vkGetInstanceProcAddr>(dlsym(library, "vkGetInstanceProcAddr"));
  static mica_backend table = *mica_backend_vulkan();
  table.device_open = [](const mica_host* host, const char* option, mica_b_device** out) {
    return vulkan::open_device(*host, option, fault_instance_proc, out);
  };
  return &table;
}

}  // namespace mica::test
