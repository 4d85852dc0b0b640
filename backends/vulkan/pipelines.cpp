// Making and keeping compute pipelines.
#include "backends/vulkan/pipelines.h"

namespace mica::vulkan {

mica_status Pipelines::open(const Api& api, VkDevice device, const char* folder,
                            const CacheKey& key, Error& error) {
  api_ = &api;
  device_ = device;
  if (folder != nullptr && folder[0] != '\0') open_cache(folder, key);
  VkPushConstantRange push{VK_SHADER_STAGE_COMPUTE_BIT, 0, kMaxPushBytes};
  auto info = structure<VkPipelineLayoutCreateInfo>(VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO);
  info.pushConstantRangeCount = 1;
  info.pPushConstantRanges = &push;
  const VkResult result = api.vkCreatePipelineLayout(device, &info, nullptr, &layout_);
  if (result == VK_SUCCESS) return MICA_OK;
  layout_ = VK_NULL_HANDLE;
  return fail_result(result, "vkCreatePipelineLayout", error);
}

VkPipelineCache Pipelines::make_cache(const Vec<char>& data) const {
  auto info = structure<VkPipelineCacheCreateInfo>(VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO);
  info.initialDataSize = data.size();
  info.pInitialData = data.data();
  VkPipelineCache cache = VK_NULL_HANDLE;
  const VkResult result = api_->vkCreatePipelineCache(device_, &info, nullptr, &cache);
  return result == VK_SUCCESS ? cache : VK_NULL_HANDLE;
}

// Without memory for it there is no cache, and nothing else is amiss.
void Pipelines::open_cache(const char* folder, const CacheKey& key) {
  Vec<char> data(entries_.allocator());
  if (!folder_.assign(folder)) return;
  key_ = key;
  if (read_cache(folder, key, data)) read_bytes_ = data.size();
  cache_ = make_cache(data);
}

// What others have put into the file since: a program has a device for the weights and one for each
// session, and there are other programs.
void Pipelines::merge_file() {
  Vec<char> data(entries_.allocator());
  if (!read_cache(folder_.c_str(), key_, data)) return;
  const VkPipelineCache others = make_cache(data);
  if (others == VK_NULL_HANDLE) return;
  (void)api_->vkMergePipelineCaches(device_, cache_, 1, &others);
  api_->vkDestroyPipelineCache(device_, others, nullptr);
}

void Pipelines::save_cache() {
  Vec<char> data(entries_.allocator());
  size_t bytes = 0;
  if (api_->vkGetPipelineCacheData(device_, cache_, &bytes, nullptr) != VK_SUCCESS) return;
  if (bytes == read_bytes_) return;  // nothing new
  merge_file();
  if (api_->vkGetPipelineCacheData(device_, cache_, &bytes, nullptr) != VK_SUCCESS) return;
  if (!data.resize(bytes)) return;
  if (api_->vkGetPipelineCacheData(device_, cache_, &bytes, data.data()) == VK_SUCCESS)
    read_bytes_ = write_cache(folder_.c_str(), key_, data.data(), bytes) ? bytes : 0;
}

void Pipelines::close() {
  if (api_ == nullptr) return;
  if (cache_ != VK_NULL_HANDLE) {
    save_cache();
    api_->vkDestroyPipelineCache(device_, cache_, nullptr);
    cache_ = VK_NULL_HANDLE;
  }
  for (const Entry& e : entries_) api_->vkDestroyPipeline(device_, e.pipeline, nullptr);
  entries_.clear();
  slots_.clear();
  if (layout_ != VK_NULL_HANDLE) api_->vkDestroyPipelineLayout(device_, layout_, nullptr);
  layout_ = VK_NULL_HANDLE;
}

bool Pipelines::same(const Entry& e, const Dispatch& d) {
  return e.shader == d.shader && e.subgroup_size == d.subgroup_size && e.n_specs == d.n_specs &&
         std::memcmp(e.spec, d.spec, d.n_specs * sizeof(uint32_t)) == 0;
}

// FNV-1a over words, then mixed.
uint64_t Pipelines::hash(const Shader* shader, const uint32_t* spec, uint32_t n,
                         uint32_t subgroup) {
  uint64_t h = 14695981039346656037ull ^ reinterpret_cast<uintptr_t>(shader);
  const auto add = [&](uint32_t word) { h = (h ^ word) * 1099511628211ull; };
  add(subgroup);
  for (uint32_t i = 0; i < n; ++i) add(spec[i]);
  return h ^ (h >> 29);
}

bool Pipelines::remember(const Entry& entry) {
  if (!entries_.push(entry)) return false;
  if (entries_.size() * 2 > slots_.size()) {
    const size_t n = slots_.size() < 64 ? 64 : slots_.size() * 2;
    slots_.clear();
    if (!slots_.resize(n)) {
      slots_.clear();
      entries_.pop();
      return false;
    }
    for (uint32_t i = 0; i + 1 < entries_.size(); ++i) {
      const Entry& e = entries_[i];
      size_t at = hash(e.shader, e.spec, e.n_specs, e.subgroup_size) & (n - 1);
      while (slots_[at] != 0) at = (at + 1) & (n - 1);
      slots_[at] = i + 1;
    }
  }
  const size_t mask = slots_.size() - 1;
  size_t at = hash(entry.shader, entry.spec, entry.n_specs, entry.subgroup_size) & mask;
  while (slots_[at] != 0) at = (at + 1) & mask;
  slots_[at] = static_cast<uint32_t>(entries_.size());
  return true;
}

mica_status Pipelines::find(const Dispatch& d, VkPipeline& out, Error& error) {
  if (!slots_.empty()) {
    const size_t mask = slots_.size() - 1;
    size_t at = hash(d.shader, d.spec, d.n_specs, d.subgroup_size) & mask;
    for (; slots_[at] != 0; at = (at + 1) & mask) {
      const Entry& e = entries_[slots_[at] - 1];
      if (!same(e, d)) continue;
      out = e.pipeline;
      return MICA_OK;
    }
  }
  MICA_TRY(make(d, out, error));
  Entry entry{d.shader, d.subgroup_size, d.n_specs, {}, out};
  std::memcpy(entry.spec, d.spec, d.n_specs * sizeof(uint32_t));
  if (remember(entry)) return MICA_OK;
  api_->vkDestroyPipeline(device_, out, nullptr);
  return error.out_of_memory("a pipeline");
}

mica_status Pipelines::make(const Dispatch& d, VkPipeline& out, Error& error) {
  if (d.shader->n_words == 0)
    return error.fail(MICA_INTERNAL, "vulkan: module ", d.shader->name, " is not in this build");
  auto module_info =
      structure<VkShaderModuleCreateInfo>(VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO);
  module_info.codeSize = uint64_t{d.shader->n_words} * 4;
  module_info.pCode = d.shader->words;
  VkShaderModule module = VK_NULL_HANDLE;
  VkResult result = api_->vkCreateShaderModule(device_, &module_info, nullptr, &module);
  if (result != VK_SUCCESS) return fail_result(result, d.shader->name, error);
  VkSpecializationMapEntry map[kMaxSpecs];
  for (uint32_t i = 0; i < d.n_specs; ++i) map[i] = {i, i * 4, 4};
  VkSpecializationInfo spec{d.n_specs, map, d.n_specs * sizeof(uint32_t), d.spec};
  auto size = structure<VkPipelineShaderStageRequiredSubgroupSizeCreateInfo>(
      VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO);
  size.requiredSubgroupSize = d.subgroup_size;
  auto info =
      structure<VkComputePipelineCreateInfo>(VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO);
  info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
  info.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
  info.stage.module = module;
  info.stage.pName = "main";
  info.stage.pSpecializationInfo = &spec;
  if (d.subgroup_size != 0) {
    info.stage.pNext = &size;
    info.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT;
  }
  info.layout = layout_;
  result = api_->vkCreateComputePipelines(device_, cache_, 1, &info, nullptr, &out);
  api_->vkDestroyShaderModule(device_, module, nullptr);
  return result == VK_SUCCESS ? MICA_OK : fail_result(result, d.shader->name, error);
}

}  // namespace mica::vulkan
