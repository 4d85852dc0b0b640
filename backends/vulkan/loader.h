// Vulkan's functions, found at run time: libvulkan is opened, never linked. Every pointer comes
// from one vkGetInstanceProcAddr, which a test may replace to make calls fail.
#pragma once
#include "backends/vulkan/vk_compat.h"
#include "core/base/text.h"

#define MICA_VK_GLOBAL_FUNCTIONS(X)     \
  X(vkCreateInstance)                   \
  X(vkEnumerateInstanceLayerProperties) \
  X(vkEnumerateInstanceExtensionProperties)
#define MICA_VK_INSTANCE_FUNCTIONS(X)         \
  X(vkDestroyInstance)                        \
  X(vkEnumeratePhysicalDevices)               \
  X(vkGetPhysicalDeviceProperties)            \
  X(vkGetPhysicalDeviceProperties2)           \
  X(vkGetPhysicalDeviceFeatures2)             \
  X(vkGetPhysicalDeviceMemoryProperties2)     \
  X(vkGetPhysicalDeviceQueueFamilyProperties) \
  X(vkEnumerateDeviceExtensionProperties)     \
  X(vkCreateDevice)                           \
  X(vkGetDeviceProcAddr)
#define MICA_VK_DEVICE_FUNCTIONS(X) \
  X(vkDestroyDevice)                \
  X(vkGetDeviceQueue)               \
  X(vkDeviceWaitIdle)               \
  X(vkQueueSubmit)                  \
  X(vkCreateBuffer)                 \
  X(vkDestroyBuffer)                \
  X(vkGetBufferMemoryRequirements)  \
  X(vkGetBufferDeviceAddress)       \
  X(vkAllocateMemory)               \
  X(vkFreeMemory)                   \
  X(vkBindBufferMemory)             \
  X(vkMapMemory)                    \
  X(vkUnmapMemory)                  \
  X(vkCreateSemaphore)              \
  X(vkDestroySemaphore)             \
  X(vkGetSemaphoreCounterValue)     \
  X(vkWaitSemaphores)               \
  X(vkCreateCommandPool)            \
  X(vkDestroyCommandPool)           \
  X(vkAllocateCommandBuffers)       \
  X(vkFreeCommandBuffers)           \
  X(vkBeginCommandBuffer)           \
  X(vkEndCommandBuffer)             \
  X(vkCmdBindPipeline)              \
  X(vkCmdPushConstants)             \
  X(vkCmdDispatch)                  \
  X(vkCmdPipelineBarrier)           \
  X(vkCmdCopyBuffer)                \
  X(vkCmdFillBuffer)                \
  X(vkCreateShaderModule)           \
  X(vkDestroyShaderModule)          \
  X(vkCreatePipelineLayout)         \
  X(vkDestroyPipelineLayout)        \
  X(vkCreatePipelineCache)          \
  X(vkDestroyPipelineCache)         \
  X(vkGetPipelineCacheData)         \
  X(vkMergePipelineCaches)          \
  X(vkCreateComputePipelines)       \
  X(vkDestroyPipeline)
// Of extensions: nullptr where absent.
#define MICA_VK_OPTIONAL_INSTANCE_FUNCTIONS(X) \
  X(vkCreateDebugUtilsMessengerEXT)            \
  X(vkDestroyDebugUtilsMessengerEXT)           \
  X(vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)
#define MICA_VK_OPTIONAL_DEVICE_FUNCTIONS(X) X(vkGetMemoryHostPointerPropertiesEXT)

namespace mica::vulkan {

struct Api {
  PFN_vkGetInstanceProcAddr vkGetInstanceProcAddr;
#define MICA_VK_MEMBER(name) PFN_##name name;
  MICA_VK_GLOBAL_FUNCTIONS(MICA_VK_MEMBER)
  MICA_VK_INSTANCE_FUNCTIONS(MICA_VK_MEMBER)
  MICA_VK_DEVICE_FUNCTIONS(MICA_VK_MEMBER)
  MICA_VK_OPTIONAL_INSTANCE_FUNCTIONS(MICA_VK_MEMBER)
  MICA_VK_OPTIONAL_DEVICE_FUNCTIONS(MICA_VK_MEMBER)
#undef MICA_VK_MEMBER
};

// The library; closed by whoever opened it, after everything made through it is gone.
struct Loader {
  void* library;
  PFN_vkGetInstanceProcAddr get_proc;
};
// NO_DEVICE when there is no libvulkan.
mica_status open_loader(Loader& out, Error& error);
void close_loader(Loader& loader);
// The drivers and layers that an instance has loaded stay in the process. libvulkan unloads them
// with the last instance, but static TLS is not given back: NVIDIA's driver can be loaded 5 times.
void pin_drivers();

// Each fills its part of the table. NO_DEVICE when a function is missing.
mica_status load_global(Api& api, PFN_vkGetInstanceProcAddr get_proc, Error& error);
mica_status load_instance(Api& api, VkInstance instance, Error& error);
mica_status load_device(Api& api, VkInstance instance, VkDevice device, Error& error);

// "VK_ERROR_DEVICE_LOST", for texts.
const char* result_name(VkResult result);
// OUT_OF_MEMORY, DEVICE_LOST, NO_DEVICE, else INTERNAL, with the text "<what>: <name>".
mica_status fail_result(VkResult result, const char* what, Error& error);

}  // namespace mica::vulkan
