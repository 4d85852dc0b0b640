// Instances, the choice of a device, and opening it.
#include "backends/vulkan/device.h"

#include <cstdlib>

#include "backends/vulkan/physical.h"
#include "backends/vulkan/self_test.h"

namespace mica::vulkan {
namespace {

constexpr char kLayer[] = "VK_LAYER_KHRONOS_validation";

bool env_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && value[0] != '\0' && std::strcmp(value, "0") != 0;
}

VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT,
                                          VkDebugUtilsMessageTypeFlagsEXT,
                                          const VkDebugUtilsMessengerCallbackDataEXT* data,
                                          void* user) {
  auto& device = *static_cast<Device*>(user);
  ++device.n_messages;
  const char* text = data->pMessage != nullptr ? data->pMessage : "no text";
  if (device.n_messages == device.n_reported + 1)
    Writer(device.message, sizeof device.message).put(text);
  if (device.host.log != nullptr) device.host.log(device.host.user, MICA_LOG_WARNING, text);
  return VK_FALSE;
}

mica_status find_layer(const Api& api, const mica_allocator& allocator, Error& error) {
  Vec<VkLayerProperties> layers(allocator);
  uint32_t n = 0;
  api.vkEnumerateInstanceLayerProperties(&n, nullptr);
  if (!layers.resize(n)) return error.out_of_memory("Vulkan's layers");
  api.vkEnumerateInstanceLayerProperties(&n, layers.data());
  for (uint32_t i = 0; i < n; ++i)
    if (std::strcmp(layers[i].layerName, kLayer) == 0) return MICA_OK;
  return error.fail(MICA_NO_DEVICE, "vulkan: MICA_VULKAN_VALIDATE is set, but there is no layer ",
                    kLayer, " (Debian: vulkan-validationlayers)");
}

mica_status make_instance(Device& d, Error& error) {
  auto app = structure<VkApplicationInfo>(VK_STRUCTURE_TYPE_APPLICATION_INFO);
  app.pApplicationName = "mica";
  app.apiVersion = VK_API_VERSION_1_3;  // used up to there; devices need 1.2
  auto messages = structure<VkDebugUtilsMessengerCreateInfoEXT>(
      VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT);
  messages.messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT |
                             VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
  messages.messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT;
  messages.pfnUserCallback = on_message;
  messages.pUserData = &d;
  const char* const layers[] = {kLayer};
  const char* const extensions[] = {VK_EXT_DEBUG_UTILS_EXTENSION_NAME};
  auto info = structure<VkInstanceCreateInfo>(VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO);
  info.pApplicationInfo = &app;
  const bool validate = env_set("MICA_VULKAN_VALIDATE");
  if (validate) {
    MICA_TRY(find_layer(d.api, d.allocator, error));
    info.pNext = &messages;
    info.enabledLayerCount = 1;
    info.ppEnabledLayerNames = layers;
    info.enabledExtensionCount = 1;
    info.ppEnabledExtensionNames = extensions;
  }
  const VkResult result = d.api.vkCreateInstance(&info, nullptr, &d.instance);
  if (result == VK_ERROR_INCOMPATIBLE_DRIVER) {
    d.instance = VK_NULL_HANDLE;
    return error.fail(MICA_NO_DEVICE, "vulkan: libvulkan finds no driver (Debian: ",
                      "mesa-vulkan-drivers, or the GPU maker's)");
  }
  if (result != VK_SUCCESS) {
    d.instance = VK_NULL_HANDLE;
    return fail_result(result, "vkCreateInstance", error);
  }
  pin_drivers();
  MICA_TRY(load_instance(d.api, d.instance, error));
  if (validate && d.api.vkCreateDebugUtilsMessengerEXT != nullptr)
    d.api.vkCreateDebugUtilsMessengerEXT(d.instance, &messages, nullptr, &d.messenger);
  return MICA_OK;
}

// The loader, unless the functions are lent, and an instance.
mica_status start(Device& d, PFN_vkGetInstanceProcAddr get_proc, Error& error) {
  if (get_proc == nullptr) {
    MICA_TRY(open_loader(d.loader, error));
    get_proc = d.loader.get_proc;
  }
  MICA_TRY(load_global(d.api, get_proc, error));
  return make_instance(d, error);
}

mica_status make_device(Device& d, const Physical& chosen, Error& error) {
  Features want;
  want.link();
  want.require();
  const char* extensions[8];
  uint32_t n = 0;
  void** tail = &want.v12.pNext;
  auto size_control = structure<VkPhysicalDeviceSubgroupSizeControlFeatures>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES);
  if (chosen.subgroup_size_control) {
    extensions[n++] = VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME;
    size_control.subgroupSizeControl = VK_TRUE;
    size_control.computeFullSubgroups = VK_TRUE;
    *tail = &size_control;
    tail = &size_control.pNext;
  }
  auto dot = structure<VkPhysicalDeviceShaderIntegerDotProductFeatures>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES);
  if (chosen.dot) {
    extensions[n++] = VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME;
    dot.shaderIntegerDotProduct = VK_TRUE;
    *tail = &dot;
    tail = &dot.pNext;
  }
  auto coopmat = structure<VkPhysicalDeviceCooperativeMatrixFeaturesKHR>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR);
  coopmat.cooperativeMatrix = VK_TRUE;
  if (chosen.coopmat) {
    extensions[n++] = VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME;
    want.v12.vulkanMemoryModel = VK_TRUE;
    want.v12.vulkanMemoryModelDeviceScope = chosen.memory_model_device ? VK_TRUE : VK_FALSE;
    *tail = &coopmat;
  }
  if (chosen.import_align > 0) {
    extensions[n++] = VK_KHR_EXTERNAL_MEMORY_EXTENSION_NAME;
    extensions[n++] = VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME;
  }
  if (chosen.budget) extensions[n++] = VK_EXT_MEMORY_BUDGET_EXTENSION_NAME;
  const float priority = 1.0f;
  auto queue = structure<VkDeviceQueueCreateInfo>(VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO);
  queue.queueFamilyIndex = chosen.queue_family;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;
  auto info = structure<VkDeviceCreateInfo>(VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO);
  info.pNext = &want.base;
  info.queueCreateInfoCount = 1;
  info.pQueueCreateInfos = &queue;
  info.enabledExtensionCount = n;
  info.ppEnabledExtensionNames = extensions;
  const VkResult result = d.api.vkCreateDevice(chosen.handle, &info, nullptr, &d.device);
  if (result != VK_SUCCESS) {
    d.device = VK_NULL_HANDLE;
    return fail_result(result, "vkCreateDevice", error);
  }
  MICA_TRY(load_device(d.api, d.instance, d.device, error));
  d.api.vkGetDeviceQueue(d.device, chosen.queue_family, 0, &d.queue);
  return MICA_OK;
}

mica_status make_queue_objects(Device& d, const CacheKey& key, Error& error) {
  auto type = structure<VkSemaphoreTypeCreateInfo>(VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO);
  type.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE;
  auto semaphore = structure<VkSemaphoreCreateInfo>(VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO);
  semaphore.pNext = &type;
  VkResult result = d.api.vkCreateSemaphore(d.device, &semaphore, nullptr, &d.timeline);
  if (result != VK_SUCCESS) return fail_result(result, "vkCreateSemaphore", error);
  auto pool = structure<VkCommandPoolCreateInfo>(VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO);
  pool.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
  pool.queueFamilyIndex = d.queue_family;
  result = d.api.vkCreateCommandPool(d.device, &pool, nullptr, &d.pool);
  if (result != VK_SUCCESS) return fail_result(result, "vkCreateCommandPool", error);
  return d.pipelines.open(d.api, d.device, std::getenv("MICA_VULKAN_CACHE"), key, error);
}

mica_status open_chosen(Device& d, const Physical& chosen, Error& error) {
  d.physical = chosen.handle;
  d.queue_family = chosen.queue_family;
  d.min_import_align = chosen.import_align;
  d.max_buffer_bytes = chosen.max_buffer_bytes;
  d.has_budget = chosen.budget;
  d.unified = chosen.unified;
  d.type = chosen.type;
  d.caps = chosen.caps;
  d.guard = guard_wanted();
  if (d.guard != Guard::none && (!d.unified || d.min_import_align == 0))
    return error.fail(MICA_NO_DEVICE, "vulkan: MICA_VULKAN_GUARD is set, but ", quoted(chosen.name),
                      " cannot use the host's memory");
  Writer(d.name, sizeof d.name).put(static_cast<const char*>(chosen.name));
  auto memory = structure<VkPhysicalDeviceMemoryProperties2>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2);
  d.api.vkGetPhysicalDeviceMemoryProperties2(d.physical, &memory);
  d.memory = memory.memoryProperties;
  // Messages of the layers belong to one Device, and a test's functions to one test.
  const bool may_share = d.loader.library != nullptr && d.messenger == VK_NULL_HANDLE;
  if (!may_share || !join_shared(d, chosen)) {
    MICA_TRY(make_device(d, chosen, error));
    if (may_share) begin_shared(d, chosen);
  }
  MICA_TRY(make_queue_objects(d, chosen.cache_key, error));
  MICA_TRY(self_test(d, error));
  return check_messages(d, error);
}

void describe(const Device& d, VkPhysicalDevice physical, const char* name, const DeviceCaps& caps,
              uint32_t index, bool budget, mica_device_info* out) {
  *out = mica_device_info{};
  Writer(out->backend, sizeof out->backend).put("vulkan");
  Writer text(out->name, sizeof out->name);
  put_paths(caps, d.failed_paths, text.put(name));
  Writer(out->options, sizeof out->options).put(index).put(",<part of the name>");
  auto properties =
      structure<VkPhysicalDeviceProperties2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2);
  d.api.vkGetPhysicalDeviceProperties2(physical, &properties);
  out->is_cpu = properties.properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU ? 1 : 0;
  auto free = structure<VkPhysicalDeviceMemoryBudgetPropertiesEXT>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT);
  auto memory = structure<VkPhysicalDeviceMemoryProperties2>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2);
  if (budget) memory.pNext = &free;
  d.api.vkGetPhysicalDeviceMemoryProperties2(physical, &memory);
  for (uint32_t i = 0; i < memory.memoryProperties.memoryHeapCount; ++i) {
    const VkMemoryHeap& heap = memory.memoryProperties.memoryHeaps[i];
    if ((heap.flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) == 0 || heap.size < out->memory_bytes)
      continue;
    out->memory_bytes = heap.size;
    const uint64_t used = free.heapUsage[i], allowed = free.heapBudget[i];
    out->free_bytes = budget && allowed > used ? allowed - used : 0;
  }
}

void close(Device* d) {
  if (d->device != VK_NULL_HANDLE && d->api.vkDestroyDevice != nullptr) {
    settle(*d, d->submitted);
    d->transfer.close(*d);
    d->pipelines.close();
    if (d->pool != VK_NULL_HANDLE) d->api.vkDestroyCommandPool(d->device, d->pool, nullptr);
    if (d->timeline != VK_NULL_HANDLE) d->api.vkDestroySemaphore(d->device, d->timeline, nullptr);
  }
  const bool last = leave_shared(*d);
  if (last && d->device != VK_NULL_HANDLE && d->api.vkDestroyDevice != nullptr)
    d->api.vkDestroyDevice(d->device, nullptr);
  if (d->messenger != VK_NULL_HANDLE)
    d->api.vkDestroyDebugUtilsMessengerEXT(d->instance, d->messenger, nullptr);
  if (last && d->instance != VK_NULL_HANDLE && d->api.vkDestroyInstance != nullptr)
    d->api.vkDestroyInstance(d->instance, nullptr);
  if (last) close_loader(d->loader);
  const mica_allocator allocator = d->allocator;
  destroy(allocator, d);
}

}  // namespace

mica_status open_device(const mica_host& host, const char* option,
                        PFN_vkGetInstanceProcAddr get_proc, mica_b_device** out) {
  *out = nullptr;
  Error error;
  Device* d = create<Device>(*host.allocator, host);
  if (d == nullptr) return MICA_OUT_OF_MEMORY;
  Vec<Physical> list(d->allocator);
  uint32_t chosen = 0;
  mica_status status = start(*d, get_proc, error);
  if (status == MICA_OK) status = list_physical(d->api, d->instance, list, error);
  if (status == MICA_OK) status = choose_physical(list, option, chosen, error);
  if (status == MICA_OK) status = open_chosen(*d, list[chosen], error);
  if (status != MICA_OK) {
    d->fail(error);
    close(d);
    return status;
  }
  d->index = list[chosen].index;
  *out = reinterpret_cast<mica_b_device*>(d);
  return MICA_OK;
}

void close_device(mica_b_device* device) {
  if (device != nullptr) close(&of(device));
}

uint32_t count_devices(const mica_host& host) {
  Error error;
  uint32_t n = 0;
  Device* d = create<Device>(*host.allocator, host);
  if (d == nullptr) return 0;
  {
    Vec<Physical> list(d->allocator);
    if (start(*d, nullptr, error) == MICA_OK &&
        list_physical(d->api, d->instance, list, error) == MICA_OK)
      for (const Physical& p : list) n += p.listed ? 1 : 0;
  }
  close(d);
  return n;
}

mica_status describe_device(const mica_host& host, uint32_t i, mica_device_info* out) {
  Error error;
  Device* d = create<Device>(*host.allocator, host);
  if (d == nullptr) return MICA_OUT_OF_MEMORY;
  mica_status status = MICA_OK;
  {
    Vec<Physical> list(d->allocator);
    status = start(*d, nullptr, error);
    if (status == MICA_OK) status = list_physical(d->api, d->instance, list, error);
    bool found = false;
    for (const Physical& p : list) {
      if (status != MICA_OK || !p.listed || p.index != i) continue;
      describe(*d, p.handle, p.name, p.caps, i, p.budget, out);
      found = true;
    }
    if (status == MICA_OK && !found) status = error.fail(MICA_NOT_FOUND, "no such vulkan device");
    if (status != MICA_OK) d->fail(error);
  }
  close(d);
  return status;
}

mica_status device_state(mica_b_device* device, mica_device_info* out) {
  const Device* d = &of(device);
  describe(*d, d->physical, d->name, d->caps, d->index, d->has_budget, out);
  return MICA_OK;
}

mica_status check_messages(Device& d, Error& error) {
  if (d.n_messages == d.n_reported) return MICA_OK;
  d.n_reported = d.n_messages;
  return error.fail(MICA_INTERNAL, "vulkan validation: ", static_cast<const char*>(d.message));
}

}  // namespace mica::vulkan
