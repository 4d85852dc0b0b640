// The driver's compiled pipelines kept in a file, where the environment MICA_VULKAN_CACHE names a
// folder for it. A file that is damaged, or of another driver, is as good as none.
#pragma once
#include "backends/vulkan/loader.h"

namespace mica::vulkan {

// What a file is good for: one device with one driver.
struct CacheKey {
  uint32_t vendor, device, driver;
  uint8_t uuid[VK_UUID_SIZE];
};

// False: there is none, or it cannot be used. `out` gets the driver's data.
[[nodiscard]] bool read_cache(const char* folder, const CacheKey& key, Vec<char>& out);
// Replaces the file at once, or not at all; makes the folder, if only that is missing.
[[nodiscard]] bool write_cache(const char* folder, const CacheKey& key, const char* data,
                               size_t bytes);

}  // namespace mica::vulkan
