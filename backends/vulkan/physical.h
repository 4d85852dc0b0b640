// The machine's Vulkan devices: what they can do, and which of them a name means.
#pragma once
#include "backends/vulkan/cache_file.h"
#include "backends/vulkan/kernel.h"
#include "backends/vulkan/loader.h"

namespace mica::vulkan {

// The features every device must have, chained for a query or for creating a device. Not movable
// once linked.
struct Features {
  VkPhysicalDeviceFeatures2 base =
      structure<VkPhysicalDeviceFeatures2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2);
  VkPhysicalDeviceVulkan11Features v11 = structure<VkPhysicalDeviceVulkan11Features>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES);
  VkPhysicalDeviceVulkan12Features v12 = structure<VkPhysicalDeviceVulkan12Features>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES);
  void link() {
    base.pNext = &v11;
    v11.pNext = &v12;
  }
  void require();
  // The first that is missing; nullptr: none.
  const char* missing() const;
};

struct Physical {
  VkPhysicalDevice handle;
  char name[128];
  VkPhysicalDeviceType type;
  uint8_t uuid[VK_UUID_SIZE];
  CacheKey cache_key;
  const char* unusable;  // why it cannot be used; nullptr: it can
  bool listed;           // counts among the devices: usable, no double, not a CPU
  uint32_t index;        // among the listed ones, best first
  uint32_t queue_family;
  DeviceCaps caps;
  bool subgroup_size_control, dot, coopmat, budget, unified, memory_model_device;
  uint64_t import_align;  // of VK_EXT_external_memory_host; 0: absent
  uint64_t max_buffer_bytes;
};

// Best first: discrete, integrated, virtual, CPU.
mica_status list_physical(const Api& api, VkInstance instance, Vec<Physical>& out, Error& error);
// "": the best that is listed; "1": that one; else the first whose name has this part, whatever
// the case, CPUs too.
mica_status choose_physical(const Vec<Physical>& list, const char* option, uint32_t& out,
                            Error& error);

}  // namespace mica::vulkan
