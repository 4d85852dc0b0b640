// What the machine's Vulkan devices can do, and which of them a name means.
#include "backends/vulkan/physical.h"

#include <algorithm>
#include <cstdlib>

namespace mica::vulkan {
namespace {

#define MICA_VK_REQUIRED(X)       \
  X(base.features.shaderInt64)    \
  X(base.features.shaderInt16)    \
  X(v11.storageBuffer16BitAccess) \
  X(v12.storageBuffer8BitAccess)  \
  X(v12.shaderFloat16)            \
  X(v12.shaderInt8)               \
  X(v12.scalarBlockLayout)        \
  X(v12.timelineSemaphore)        \
  X(v12.bufferDeviceAddress)

bool env_is(const char* name, const char* wanted) {
  const char* value = std::getenv(name);
  return value != nullptr && std::strcmp(value, wanted) == 0;
}

class Extensions {
 public:
  explicit Extensions(const mica_allocator& a) : list_(a) {}
  [[nodiscard]] bool read(const Api& api, VkPhysicalDevice device) {
    uint32_t n = 0;
    if (api.vkEnumerateDeviceExtensionProperties(device, nullptr, &n, nullptr) < 0) n = 0;
    if (!list_.resize(n)) return false;
    if (n > 0 && api.vkEnumerateDeviceExtensionProperties(device, nullptr, &n, list_.data()) < 0)
      list_.clear();
    return true;
  }
  bool has(const char* name) const {
    for (const VkExtensionProperties& e : list_)
      if (std::strcmp(e.extensionName, name) == 0) return true;
    return false;
  }

 private:
  Vec<VkExtensionProperties> list_;
};

bool find_queue_family(const Api& api, const mica_allocator& allocator, Physical& p) {
  uint32_t n = 0;
  api.vkGetPhysicalDeviceQueueFamilyProperties(p.handle, &n, nullptr);
  Vec<VkQueueFamilyProperties> families(allocator);
  if (!families.resize(n)) return false;
  api.vkGetPhysicalDeviceQueueFamilyProperties(p.handle, &n, families.data());
  for (uint32_t i = 0; i < n; ++i) {
    if ((families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) continue;
    p.queue_family = i;
    return true;
  }
  return false;
}

// F16 x F16 + F32 in tiles of 16 x 16 x 16 of a subgroup.
bool has_coopmat_shape(const Api& api, const mica_allocator& allocator, VkPhysicalDevice device) {
  const auto query = api.vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR;
  uint32_t n = 0;
  if (query == nullptr || query(device, &n, nullptr) < 0) return false;
  Vec<VkCooperativeMatrixPropertiesKHR> list(allocator);
  if (!list.resize(n)) return false;
  for (VkCooperativeMatrixPropertiesKHR& s : list)
    s.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
  if (query(device, &n, list.data()) < 0) return false;
  for (const VkCooperativeMatrixPropertiesKHR& s : list)
    if (s.MSize == 16 && s.NSize == 16 && s.KSize == 16 &&
        s.AType == VK_COMPONENT_TYPE_FLOAT16_KHR && s.BType == VK_COMPONENT_TYPE_FLOAT16_KHR &&
        s.CType == VK_COMPONENT_TYPE_FLOAT32_KHR && s.ResultType == VK_COMPONENT_TYPE_FLOAT32_KHR &&
        s.scope == VK_SCOPE_SUBGROUP_KHR)
      return true;
  return false;
}

// Properties and optional features of extensions, each asked for only where it exists.
void read_optional(const Api& api, const mica_allocator& allocator, const Extensions& extensions,
                   Physical& p) {
  auto size_control = structure<VkPhysicalDeviceSubgroupSizeControlFeatures>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES);
  auto dot = structure<VkPhysicalDeviceShaderIntegerDotProductFeatures>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES);
  auto coopmat = structure<VkPhysicalDeviceCooperativeMatrixFeaturesKHR>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR);
  auto features =
      structure<VkPhysicalDeviceFeatures2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2);
  void** tail = &features.pNext;
  const auto chain = [&](auto& s) {
    *tail = &s;
    tail = &s.pNext;
  };
  const bool has_size = extensions.has(VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
  const bool has_dot = extensions.has(VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME);
  const bool has_coopmat = extensions.has(VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
  if (has_size) chain(size_control);
  if (has_dot) chain(dot);
  if (has_coopmat) chain(coopmat);
  api.vkGetPhysicalDeviceFeatures2(p.handle, &features);
  p.subgroup_size_control =
      size_control.subgroupSizeControl != 0 && size_control.computeFullSubgroups != 0;
  p.dot = dot.shaderIntegerDotProduct != 0;
  p.coopmat = coopmat.cooperativeMatrix != 0 && has_coopmat_shape(api, allocator, p.handle);
  p.budget = extensions.has(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
}

void read_limits(const Api& api, const Extensions& extensions, Physical& p) {
  auto subgroup = structure<VkPhysicalDeviceSubgroupProperties>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES);
  auto id =
      structure<VkPhysicalDeviceIDProperties>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES);
  auto largest = structure<VkPhysicalDeviceMaintenance3Properties>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES);
  auto sizes = structure<VkPhysicalDeviceSubgroupSizeControlProperties>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES);
  auto dot = structure<VkPhysicalDeviceShaderIntegerDotProductProperties>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_PROPERTIES);
  auto import = structure<VkPhysicalDeviceExternalMemoryHostPropertiesEXT>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT);
  auto sm = structure<VkPhysicalDeviceShaderSMBuiltinsPropertiesNV>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_SM_BUILTINS_PROPERTIES_NV);
  auto amd = structure<VkPhysicalDeviceShaderCorePropertiesAMD>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_CORE_PROPERTIES_AMD);
  auto props =
      structure<VkPhysicalDeviceProperties2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2);
  props.pNext = &subgroup;
  subgroup.pNext = &id;
  id.pNext = &largest;
  auto floats = structure<VkPhysicalDeviceFloatControlsProperties>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FLOAT_CONTROLS_PROPERTIES);
  largest.pNext = &floats;
  void** tail = &floats.pNext;
  const auto chain = [&](auto& s, bool present) {
    if (!present) return;
    *tail = &s;
    tail = &s.pNext;
  };
  const bool has_import = extensions.has(VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME) &&
                          extensions.has(VK_KHR_EXTERNAL_MEMORY_EXTENSION_NAME);
  chain(sizes, p.subgroup_size_control);
  chain(dot, p.dot);
  chain(import, has_import);
  chain(sm, extensions.has(VK_NV_SHADER_SM_BUILTINS_EXTENSION_NAME));
  chain(amd, extensions.has(VK_AMD_SHADER_CORE_PROPERTIES_EXTENSION_NAME));
  api.vkGetPhysicalDeviceProperties2(p.handle, &props);

  const VkPhysicalDeviceLimits& limits = props.properties.limits;
  DeviceCaps& caps = p.caps;
  caps.subgroup_size = subgroup.subgroupSize;
  caps.min_subgroup_size = p.subgroup_size_control ? sizes.minSubgroupSize : subgroup.subgroupSize;
  caps.max_subgroup_size = p.subgroup_size_control ? sizes.maxSubgroupSize : subgroup.subgroupSize;
  caps.max_shared_bytes = limits.maxComputeSharedMemorySize;
  caps.max_invocations = limits.maxComputeWorkGroupInvocations;
  for (int i = 0; i < 3; ++i) caps.max_groups[i] = limits.maxComputeWorkGroupCount[i];
  caps.n_cores = sm.shaderSMCount != 0 ? sm.shaderSMCount
                                       : amd.shaderEngineCount * amd.shaderArraysPerEngineCount *
                                             amd.computeUnitsPerShaderArray;
  caps.dot = p.dot && dot.integerDotProduct4x8BitPackedSignedAccelerated != 0;
  // Where all widths must be alike, F16 would have to be asked for too.
  caps.keeps_subnormals =
      floats.shaderDenormPreserveFloat32 != 0 &&
      floats.denormBehaviorIndependence != VK_SHADER_FLOAT_CONTROLS_INDEPENDENCE_NONE;
  caps.cooperative_matrix = p.coopmat;
  p.import_align = has_import ? import.minImportedHostPointerAlignment : 0;
  p.max_buffer_bytes = largest.maxMemoryAllocationSize;
  std::memcpy(p.uuid, id.deviceUUID, sizeof p.uuid);
  const VkSubgroupFeatureFlags needed =
      VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_ARITHMETIC_BIT;
  if ((subgroup.supportedOperations & needed) != needed ||
      (subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) == 0)
    p.unusable = "subgroup arithmetic";
}

// Whether a variable's value, words between commas, has this one.
bool env_has(const char* name, const char* word) {
  const size_t n = std::strlen(word);
  for (const char* at = std::getenv(name); at != nullptr; at = std::strchr(at, ',')) {
    if (*at == ',') ++at;
    if (std::strncmp(at, word, n) == 0 && (at[n] == '\0' || at[n] == ',')) return true;
  }
  return false;
}

// For tests. MICA_VULKAN_DISABLE: paths to leave out, "dot,coopmat,denorm". MICA_VULKAN_ENABLE:
// "plain_fragments". MICA_VULKAN_FORCE_DOT=1 takes the dot product also where the driver emulates
// it.
void apply_environment(Physical& p) {
  constexpr char kDisable[] = "MICA_VULKAN_DISABLE";
  if (env_has(kDisable, "dot")) p.caps.dot = false;
  if (env_has(kDisable, "coopmat")) p.caps.cooperative_matrix = false;
  if (env_has(kDisable, "denorm")) p.caps.keeps_subnormals = false;
  p.caps.plain_fragments = env_has("MICA_VULKAN_ENABLE", "plain_fragments");
  if (env_is("MICA_VULKAN_FORCE_DOT", "1")) p.caps.dot = p.dot;
}

bool read_device(const Api& api, const mica_allocator& allocator, Physical& p) {
  VkPhysicalDeviceProperties basic{};
  api.vkGetPhysicalDeviceProperties(p.handle, &basic);
  Writer(p.name, sizeof p.name).put(static_cast<const char*>(basic.deviceName));
  p.type = basic.deviceType;
  p.cache_key = {basic.vendorID, basic.deviceID, basic.driverVersion, {}};
  std::memcpy(p.cache_key.uuid, basic.pipelineCacheUUID, sizeof p.cache_key.uuid);
  p.unified =
      p.type == VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU || p.type == VK_PHYSICAL_DEVICE_TYPE_CPU;
  if (basic.apiVersion < VK_API_VERSION_1_2) {
    p.unusable = "Vulkan 1.2";
    return true;
  }
  Extensions extensions(allocator);
  if (!extensions.read(api, p.handle)) return false;
  Features have;
  have.link();
  api.vkGetPhysicalDeviceFeatures2(p.handle, &have.base);
  p.unusable = have.missing();
  p.memory_model_device = have.v12.vulkanMemoryModelDeviceScope != 0;
  read_optional(api, allocator, extensions, p);
  if (have.v12.vulkanMemoryModel == 0) p.coopmat = false;
  read_limits(api, extensions, p);
  if (!find_queue_family(api, allocator, p)) p.unusable = "a queue for compute";
  apply_environment(p);
  return true;
}

int rank(VkPhysicalDeviceType type) {
  switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
      return 0;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
      return 1;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU:
      return 2;
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
      return 4;
    default:
      return 3;
  }
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool contains(const char* text, const char* part) {
  for (; *text != '\0'; ++text) {
    size_t i = 0;
    while (part[i] != '\0' && lower(text[i]) == lower(part[i])) ++i;
    if (part[i] == '\0') return true;
  }
  return false;
}

// Decimal, of at most four digits.
bool parse_index(const char* text, uint32_t& out) {
  out = 0;
  size_t n = 0;
  for (; text[n] >= '0' && text[n] <= '9' && n < 5; ++n)
    out = out * 10 + static_cast<uint32_t>(text[n] - '0');
  return n > 0 && n < 5 && text[n] == '\0';
}

mica_status no_such(const Vec<Physical>& list, const char* option, Error& error) {
  char names[300];
  Writer w(names, sizeof names);
  for (const Physical& p : list) {
    w.put(w.size() == 0 ? "" : ", ");
    if (p.listed) w.put(p.index).put(" ");
    w.put(quoted(p.name));
  }
  return error.fail(MICA_NOT_FOUND, "vulkan: no device ", quoted(option),
                    "; there are: ", list.empty() ? "none" : static_cast<const char*>(names));
}

mica_status use(const Vec<Physical>& list, uint32_t i, uint32_t& out, Error& error) {
  out = i;
  if (list[i].unusable == nullptr) return MICA_OK;
  return error.fail(MICA_NO_DEVICE, "vulkan: ", quoted(list[i].name),
                    " or its driver is too old: ", "it has no ", list[i].unusable);
}

}  // namespace

void Features::require() {
#define MICA_VK_SET(feature) feature = VK_TRUE;
  MICA_VK_REQUIRED(MICA_VK_SET)
#undef MICA_VK_SET
}

const char* Features::missing() const {
#define MICA_VK_TEST(feature) \
  if (feature == 0) return #feature;
  MICA_VK_REQUIRED(MICA_VK_TEST)
#undef MICA_VK_TEST
  return nullptr;
}

mica_status list_physical(const Api& api, VkInstance instance, Vec<Physical>& out, Error& error) {
  uint32_t n = 0;
  VkResult result = api.vkEnumeratePhysicalDevices(instance, &n, nullptr);
  Vec<VkPhysicalDevice> handles(out.allocator());
  if (result >= 0 && !handles.resize(n)) return error.out_of_memory("Vulkan's devices");
  if (result >= 0 && n > 0) result = api.vkEnumeratePhysicalDevices(instance, &n, handles.data());
  if (result < 0 && result != VK_ERROR_INITIALIZATION_FAILED)
    return fail_result(result, "vkEnumeratePhysicalDevices", error);
  const bool cpus = env_is("MICA_VULKAN_CPU", "1");
  for (uint32_t i = 0; result >= 0 && i < n; ++i) {
    Physical p{};
    p.handle = handles[i];
    if (!read_device(api, out.allocator(), p)) return error.out_of_memory("Vulkan's devices");
    bool doubled = false;  // one GPU, two drivers: the first one counts
    for (const Physical& q : out)
      doubled |= q.unusable == nullptr && std::memcmp(p.uuid, q.uuid, sizeof p.uuid) == 0;
    p.listed = p.unusable == nullptr && !doubled && (cpus || p.type != VK_PHYSICAL_DEVICE_TYPE_CPU);
    if (!out.push(p)) return error.out_of_memory("Vulkan's devices");
  }
  // Insertion sort: stable, and lists are short.
  for (size_t i = 1; i < out.size(); ++i)
    for (size_t j = i; j > 0 && rank(out[j].type) < rank(out[j - 1].type); --j)
      std::swap(out[j], out[j - 1]);
  uint32_t index = 0;
  for (Physical& p : out)
    if (p.listed) p.index = index++;
  return MICA_OK;
}

mica_status choose_physical(const Vec<Physical>& list, const char* option, uint32_t& out,
                            Error& error) {
  uint32_t wanted = 0;
  const bool by_index = option[0] == '\0' || parse_index(option, wanted);
  if (by_index) {
    for (uint32_t i = 0; i < list.size(); ++i)
      if (list[i].listed && list[i].index == wanted) return use(list, i, out, error);
    if (option[0] != '\0') return no_such(list, option, error);
    for (uint32_t i = 0; i < list.size(); ++i)  // an unusable GPU says more than an unused CPU
      if (list[i].unusable != nullptr) return use(list, i, out, error);
    if (list.empty()) return error.fail(MICA_NO_DEVICE, "vulkan: the drivers find no device");
    return error.fail(MICA_NO_DEVICE, "vulkan: there is only ", quoted(list[0].name),
                      ", which is a CPU; ask for it by name (vulkan:",
                      static_cast<const char*>("llvmpipe"), ") if that is meant");
  }
  for (const bool usable : {true, false})
    for (uint32_t i = 0; i < list.size(); ++i)
      if ((list[i].unusable == nullptr) == usable && contains(list[i].name, option))
        return use(list, i, out, error);
  return no_such(list, option, error);
}

}  // namespace mica::vulkan
