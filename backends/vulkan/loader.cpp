// Opening libvulkan and finding its functions.
#include "backends/vulkan/loader.h"

#include <dlfcn.h>
#include <link.h>

namespace mica::vulkan {
namespace {

struct ObjectName {
  uint32_t n_before;  // objects to go by
  char path[4096];
};

// What libvulkan looks for in a driver or a layer.
bool is_driver_or_layer(void* library) {
  return dlsym(library, "vk_icdGetInstanceProcAddr") != nullptr ||
         dlsym(library, "vkNegotiateLoaderLayerInterfaceVersion") != nullptr;
}

int name_of_object(dl_phdr_info* info, size_t, void* user) {
  auto& wanted = *static_cast<ObjectName*>(user);
  if (wanted.n_before-- > 0) return 0;
  Writer(wanted.path, sizeof wanted.path).put(info->dlpi_name);
  return 1;
}

mica_status missing(const char* name, Error& error) {
  return error.fail(MICA_NO_DEVICE, "the Vulkan driver is too old: it has no ", name);
}

}  // namespace

mica_status open_loader(Loader& out, Error& error) {
  out = {};
  const char* const names[] = {"libvulkan.so.1", "libvulkan.so"};
  for (const char* name : names) {
    out.library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (out.library != nullptr) break;
  }
  if (out.library == nullptr)
    return error.fail(MICA_NO_DEVICE, "vulkan: there is no libvulkan.so.1 on this machine; a ",
                      "Vulkan driver brings it (Debian: libvulkan1)");
  out.get_proc =
      reinterpret_cast<PFN_vkGetInstanceProcAddr>(dlsym(out.library, "vkGetInstanceProcAddr"));
  if (out.get_proc != nullptr) return MICA_OK;
  close_loader(out);
  return error.fail(MICA_NO_DEVICE, "vulkan: libvulkan.so.1 has no vkGetInstanceProcAddr");
}

void close_loader(Loader& loader) {
  if (loader.library != nullptr) dlclose(loader.library);
  loader = {};
}

void pin_drivers() {
  // By number, because what dl_iterate_phdr calls should not open anything. An object that another
  // thread adds or takes away meanwhile may cost a driver its pin, nothing else.
  ObjectName object;
  for (uint32_t i = 0;; ++i) {
    object.n_before = i;
    if (dl_iterate_phdr(name_of_object, &object) == 0) return;
    if (object.path[0] == '\0') continue;  // the program
    void* handle = dlopen(object.path, RTLD_LAZY | RTLD_NOLOAD);
    if (handle == nullptr) continue;
    if (is_driver_or_layer(handle)) {
      void* pinned = dlopen(object.path, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
      if (pinned != nullptr) dlclose(pinned);
    }
    dlclose(handle);
  }
}

#define MICA_VK_FIND(name, source)                 \
  api.name = reinterpret_cast<PFN_##name>(source); \
  if (api.name == nullptr) return missing(#name, error);

mica_status load_global(Api& api, PFN_vkGetInstanceProcAddr get_proc, Error& error) {
  api = {};
  api.vkGetInstanceProcAddr = get_proc;
#define MICA_VK_LOAD(name) MICA_VK_FIND(name, get_proc(nullptr, #name))
  MICA_VK_GLOBAL_FUNCTIONS(MICA_VK_LOAD)
#undef MICA_VK_LOAD
  return MICA_OK;
}

mica_status load_instance(Api& api, VkInstance instance, Error& error) {
#define MICA_VK_LOAD(name) MICA_VK_FIND(name, api.vkGetInstanceProcAddr(instance, #name))
  MICA_VK_INSTANCE_FUNCTIONS(MICA_VK_LOAD)
#undef MICA_VK_LOAD
#define MICA_VK_LOAD(name) \
  api.name = reinterpret_cast<PFN_##name>(api.vkGetInstanceProcAddr(instance, #name));
  MICA_VK_OPTIONAL_INSTANCE_FUNCTIONS(MICA_VK_LOAD)
#undef MICA_VK_LOAD
  return MICA_OK;
}

mica_status load_device(Api& api, VkInstance instance, VkDevice device, Error& error) {
  const auto find = [&](const char* name) {
    const PFN_vkVoidFunction direct = api.vkGetDeviceProcAddr(device, name);
    return direct != nullptr ? direct : api.vkGetInstanceProcAddr(instance, name);
  };
#define MICA_VK_LOAD(name) MICA_VK_FIND(name, find(#name))
  MICA_VK_DEVICE_FUNCTIONS(MICA_VK_LOAD)
#undef MICA_VK_LOAD
#define MICA_VK_LOAD(name) \
  api.name = reinterpret_cast<PFN_##name>(api.vkGetDeviceProcAddr(device, #name));
  MICA_VK_OPTIONAL_DEVICE_FUNCTIONS(MICA_VK_LOAD)
#undef MICA_VK_LOAD
  return MICA_OK;
}
#undef MICA_VK_FIND

const char* result_name(VkResult result) {
  switch (result) {
#define MICA_VK_NAME(name) \
  case name:               \
    return #name;
    MICA_VK_NAME(VK_SUCCESS)
    MICA_VK_NAME(VK_NOT_READY)
    MICA_VK_NAME(VK_TIMEOUT)
    MICA_VK_NAME(VK_INCOMPLETE)
    MICA_VK_NAME(VK_ERROR_OUT_OF_HOST_MEMORY)
    MICA_VK_NAME(VK_ERROR_OUT_OF_DEVICE_MEMORY)
    MICA_VK_NAME(VK_ERROR_INITIALIZATION_FAILED)
    MICA_VK_NAME(VK_ERROR_DEVICE_LOST)
    MICA_VK_NAME(VK_ERROR_MEMORY_MAP_FAILED)
    MICA_VK_NAME(VK_ERROR_LAYER_NOT_PRESENT)
    MICA_VK_NAME(VK_ERROR_EXTENSION_NOT_PRESENT)
    MICA_VK_NAME(VK_ERROR_FEATURE_NOT_PRESENT)
    MICA_VK_NAME(VK_ERROR_INCOMPATIBLE_DRIVER)
    MICA_VK_NAME(VK_ERROR_TOO_MANY_OBJECTS)
    MICA_VK_NAME(VK_ERROR_UNKNOWN)
    MICA_VK_NAME(VK_ERROR_INVALID_EXTERNAL_HANDLE)
    MICA_VK_NAME(VK_ERROR_INVALID_OPAQUE_CAPTURE_ADDRESS)
#undef MICA_VK_NAME
    default:
      return "an unknown VkResult";
  }
}

mica_status fail_result(VkResult result, const char* what, Error& error) {
  mica_status status = MICA_INTERNAL;
  switch (result) {
    case VK_ERROR_OUT_OF_HOST_MEMORY:
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
    case VK_ERROR_TOO_MANY_OBJECTS:
    case VK_ERROR_MEMORY_MAP_FAILED:
      status = MICA_OUT_OF_MEMORY;
      break;
    case VK_ERROR_DEVICE_LOST:
      status = MICA_DEVICE_LOST;
      break;
    case VK_ERROR_INCOMPATIBLE_DRIVER:
    case VK_ERROR_INITIALIZATION_FAILED:
    case VK_ERROR_LAYER_NOT_PRESENT:
    case VK_ERROR_EXTENSION_NOT_PRESENT:
    case VK_ERROR_FEATURE_NOT_PRESENT:
      status = MICA_NO_DEVICE;
      break;
    default:
      break;
  }
  return error.fail(status, "vulkan: ", what, ": ", result_name(result));
}

}  // namespace mica::vulkan
