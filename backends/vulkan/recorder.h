// Where kernels put their dispatches: a command buffer being recorded.
#pragma once
#include "backends/vulkan/constants.h"
#include "backends/vulkan/device.h"

namespace mica::vulkan {

class Recorder {
 public:
  Recorder(Device& device, Constants& constants, Error& error)
      : device_(device), constants_(constants), error_(error) {}
  [[nodiscard]] mica_status begin(VkCommandBuffer commands);
  [[nodiscard]] mica_status end();
  [[nodiscard]] mica_status dispatch(const Dispatch& d);
  void barrier();
  [[nodiscard]] mica_status constants(const void* data, uint32_t bytes, uint64_t& out_address) {
    return constants_.find(device_, data, bytes, out_address, error_);
  }
  uint32_t n_dispatches() const { return n_dispatches_; }
  uint32_t n_barriers() const { return n_barriers_; }

 private:
  Device& device_;
  Constants& constants_;
  Error& error_;
  VkCommandBuffer commands_ = VK_NULL_HANDLE;
  VkPipeline bound_ = VK_NULL_HANDLE;
  uint32_t n_dispatches_ = 0, n_barriers_ = 0;
  bool dirty_ = false;  // dispatches since the last barrier
};

// A full memory barrier between the stages given, of all accesses that they do here.
void memory_barrier(const Api& api, VkCommandBuffer commands, VkPipelineStageFlags from,
                    VkPipelineStageFlags to);

}  // namespace mica::vulkan
