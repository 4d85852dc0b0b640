// Work that is recorded, run once and waited for.
#pragma once
#include "backends/vulkan/recorder.h"

namespace mica::vulkan {

// A command buffer that is recorded, submitted and waited for.
class OneTime {
 public:
  explicit OneTime(Device& d)
      : device_(d), constants_(d.allocator), recorder_(d, constants_, error_) {}
  ~OneTime() {
    if (commands_ != VK_NULL_HANDLE)
      device_.api.vkFreeCommandBuffers(device_.device, device_.pool, 1, &commands_);
    constants_.close(value_);
  }
  OneTime(const OneTime&) = delete;
  OneTime& operator=(const OneTime&) = delete;
  mica_status begin() {
    auto info =
        structure<VkCommandBufferAllocateInfo>(VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO);
    info.commandPool = device_.pool;
    info.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
    info.commandBufferCount = 1;
    const VkResult result = device_.api.vkAllocateCommandBuffers(device_.device, &info, &commands_);
    if (result == VK_SUCCESS) return recorder_.begin(commands_);
    commands_ = VK_NULL_HANDLE;
    return fail_result(result, "vkAllocateCommandBuffers", error_);
  }
  mica_status run() {
    MICA_TRY(recorder_.end());
    MICA_TRY(submit_commands(device_, &commands_, 1, value_, error_));
    MICA_TRY(wait_value(device_, value_, error_));
    return check_messages(device_, error_);
  }
  Recorder& recorder() { return recorder_; }
  Error& error() { return error_; }

 private:
  Device& device_;
  Error error_;
  Constants constants_;
  Recorder recorder_;
  uint64_t value_ = 0;  // of its submission
  VkCommandBuffer commands_ = VK_NULL_HANDLE;
};

}  // namespace mica::vulkan
