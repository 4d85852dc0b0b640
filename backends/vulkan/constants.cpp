// Keeping tables on the device.
#include "backends/vulkan/constants.h"

#include <algorithm>

#include "backends/vulkan/device.h"

namespace mica::vulkan {

mica_status Constants::find(Device& d, const void* data, uint32_t bytes, uint64_t& out_address,
                            Error& error) {
  for (const Entry& e : entries_) {
    if (e.bytes != bytes || std::memcmp(bytes_.data() + e.at, data, bytes) != 0) continue;
    out_address = e.address;
    return MICA_OK;
  }
  if (blocks_.empty() || blocks_.back().bytes - blocks_.back().used < bytes) {
    const uint64_t size = bytes > kBlockBytes ? bytes : kBlockBytes;
    mica_b_buffer* buffer = nullptr;
    const mica_status status = buffer_create(reinterpret_cast<mica_b_device*>(&d), size, &buffer);
    if (status != MICA_OK) return error.fail(status, "vulkan: no memory for a table");
    if (!blocks_.push({buffer, 0, size})) {
      buffer_free(buffer);
      return error.out_of_memory("a table");
    }
  }
  Block& block = blocks_.back();
  const uint64_t at = bytes_.size();
  out_address = of(block.buffer).address + block.used;
  if (!entries_.push({at, bytes, out_address})) return error.out_of_memory("a table");
  if (!bytes_.append(static_cast<const char*>(data), bytes)) {
    entries_.pop();
    return error.out_of_memory("a table");
  }
  const mica_status status = buffer_write(block.buffer, block.used, data, bytes);
  if (status != MICA_OK) {
    entries_.pop();
    return error.fail(status, "vulkan: a table cannot be written");
  }
  block.used = std::min(block.bytes, align_up<uint64_t>(block.used + bytes, 16));
  return MICA_OK;
}

void Constants::close(uint64_t last_use) {
  for (const Block& b : blocks_) {
    Buffer& buffer = of(b.buffer);
    buffer.last_use = std::max(buffer.last_use, last_use);
    buffer_free(b.buffer);
  }
  blocks_.clear();
  entries_.clear();
}

}  // namespace mica::vulkan
