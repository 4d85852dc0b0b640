// Moving bytes to and from memory that the host cannot reach: a ring of staging blocks, and copies
// that are recorded in batches and submitted before whatever needs them.
#pragma once
#include "backends/vulkan/loader.h"

namespace mica::vulkan {

struct Device;
struct Buffer;

class Transfer {
 public:
  // Small writes wait for the next submission; so a step's inputs go with the step.
  [[nodiscard]] mica_status write(Device& d, Buffer& to, uint64_t offset, const void* src,
                                  uint64_t bytes, Error& error);
  [[nodiscard]] mica_status read(Device& d, Buffer& from, uint64_t offset, void* dst,
                                 uint64_t bytes, Error& error);
  [[nodiscard]] mica_status copy(Device& d, Buffer& to, uint64_t to_offset, Buffer& from,
                                 uint64_t from_offset, uint64_t bytes, Error& error);
  [[nodiscard]] mica_status fill_zero(Device& d, Buffer& to, Error& error);
  // Ends the open batch: its command buffer goes with the next submission, in front.
  // VK_NULL_HANDLE: there is none.
  [[nodiscard]] mica_status take_batch(Device& d, VkCommandBuffer& out, Error& error);
  // Submits the open batch, if there is one.
  [[nodiscard]] mica_status flush(Device& d, Error& error);
  void close(Device& d);

 private:
  static constexpr uint32_t kBlocks = 4;
  static constexpr uint64_t kBlockBytes = uint64_t{8} << 20;

 public:
  static constexpr uint64_t kRingBytes = kBlocks * kBlockBytes;

 private:
  struct Block {
    Buffer* buffer = nullptr;
    VkCommandBuffer commands = VK_NULL_HANDLE;
    uint64_t used = 0;   // bytes of the buffer
    uint64_t value = 0;  // the submission that uses it
    bool open = false;   // being recorded
  };
  [[nodiscard]] mica_status open_batch(Device& d, Error& error);
  [[nodiscard]] mica_status room(Device& d, uint64_t wanted, uint64_t& offset, uint64_t& bytes,
                                 Error& error);
  Block& block() { return blocks_[current_]; }

  Block blocks_[kBlocks];
  uint32_t current_ = 0;
};

}  // namespace mica::vulkan
