// What kernels put into device memory when they are recorded: arguments beyond push constants, and
// tables that they compute on the host. It lives as long as what is recorded with it; equal bytes
// are kept once.
#pragma once
#include "backends/vulkan/loader.h"
#include "mica/backend.h"

namespace mica::vulkan {

struct Device;

class Constants {
 public:
  explicit Constants(const mica_allocator& a) : blocks_(a), entries_(a), bytes_(a) {}
  mica_status find(Device& device, const void* data, uint32_t bytes, uint64_t& out_address,
                   Error& error);
  // `last_use`: the last submission of what was recorded; 0: there was none.
  void close(uint64_t last_use);

 private:
  static constexpr uint64_t kBlockBytes = uint64_t{64} << 10;
  struct Block {
    mica_b_buffer* buffer;
    uint64_t used, bytes;
  };
  struct Entry {
    uint64_t at;  // of its copy in bytes_
    uint32_t bytes;
    uint64_t address;
  };
  Vec<Block> blocks_;
  Vec<Entry> entries_;
  Vec<char> bytes_;
};

}  // namespace mica::vulkan
