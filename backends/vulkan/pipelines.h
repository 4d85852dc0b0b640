// Compute pipelines, made once for each shader, specialization and subgroup size.
#pragma once
#include "backends/vulkan/cache_file.h"
#include "backends/vulkan/kernel.h"
#include "backends/vulkan/loader.h"

namespace mica::vulkan {

class Pipelines {
 public:
  explicit Pipelines(const mica_allocator& a) : folder_(a), entries_(a), slots_(a) {}

  // `folder`: of the cache file; nullptr: none is kept.
  mica_status open(const Api& api, VkDevice device, const char* folder, const CacheKey& key,
                   Error& error);
  void close();
  // The pipeline of a dispatch; made when it is the first of its kind.
  mica_status find(const Dispatch& d, VkPipeline& out, Error& error);
  VkPipelineLayout layout() const { return layout_; }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    const Shader* shader;
    uint32_t subgroup_size;
    uint32_t n_specs;
    uint32_t spec[kMaxSpecs];
    VkPipeline pipeline;
  };
  static bool same(const Entry& e, const Dispatch& d);
  static uint64_t hash(const Shader* shader, const uint32_t* spec, uint32_t n, uint32_t subgroup);
  mica_status make(const Dispatch& d, VkPipeline& out, Error& error);
  [[nodiscard]] bool remember(const Entry& entry);
  void open_cache(const char* folder, const CacheKey& key);
  VkPipelineCache make_cache(const Vec<char>& data) const;
  void merge_file();
  void save_cache();

  const Api* api_ = nullptr;
  VkDevice device_ = VK_NULL_HANDLE;
  VkPipelineLayout layout_ = VK_NULL_HANDLE;
  VkPipelineCache cache_ = VK_NULL_HANDLE;
  Text folder_;  // of the cache file; empty: none
  CacheKey key_{};
  size_t read_bytes_ = 0;  // what the file had
  Vec<Entry> entries_;
  Vec<uint32_t> slots_;  // hash table: index + 1; 0: free
};

}  // namespace mica::vulkan
