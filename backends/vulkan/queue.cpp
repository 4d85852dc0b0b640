// Submitting to the one queue, and waiting: every submission raises the timeline semaphore by one.
#include "backends/vulkan/device.h"

namespace mica::vulkan {
namespace {

// Questions before sleeping: waking up costs tens of microseconds, but a CPU that plays GPU needs
// its cores.
uint32_t spins(const Device& d) { return d.type == VK_PHYSICAL_DEVICE_TYPE_CPU ? 200 : 20000; }
constexpr uint64_t kSliceNs = 10'000'000;  // asleep, between looks at the device

// Sticky: from here on everything but release is refused.
mica_status fail_lost(Device& d, VkResult result, const char* what, Error& error) {
  const mica_status status = fail_result(result, what, error);
  if (status != MICA_DEVICE_LOST) return status;
  d.lose();
  return error.fail(status, "vulkan: the device ", quoted(d.name), " was lost in ", what,
                    "; everything on it can only be released");
}

bool read_counter(Device& d, VkResult& result) {
  uint64_t value = 0;
  result = d.api.vkGetSemaphoreCounterValue(d.device, d.timeline, &value);
  if (result == VK_SUCCESS && value > d.completed) d.completed = value;
  return result == VK_SUCCESS;
}

}  // namespace

mica_status submit_commands(Device& d, const VkCommandBuffer* commands, uint32_t n,
                            uint64_t& out_value, Error& error) {
  VkCommandBuffer list[8];
  if (d.lost)
    return error.fail(MICA_DEVICE_LOST, "vulkan: the device ", quoted(d.name), " was lost");
  if (n + 1 > sizeof list / sizeof list[0])
    return error.fail(MICA_INTERNAL, "vulkan: too many command buffers");
  uint32_t n_list = 0;
  MICA_TRY(d.transfer.take_batch(d, list[0], error));
  if (list[0] != VK_NULL_HANDLE) n_list = 1;
  for (uint32_t i = 0; i < n; ++i) list[n_list++] = commands[i];
  const uint64_t value = d.submitted + 1;
  auto timeline =
      structure<VkTimelineSemaphoreSubmitInfo>(VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO);
  timeline.signalSemaphoreValueCount = 1;
  timeline.pSignalSemaphoreValues = &value;
  auto info = structure<VkSubmitInfo>(VK_STRUCTURE_TYPE_SUBMIT_INFO);
  info.pNext = &timeline;
  info.commandBufferCount = n_list;
  info.pCommandBuffers = list;
  info.signalSemaphoreCount = 1;
  info.pSignalSemaphores = &d.timeline;
  VkResult result = VK_SUCCESS;
  {
    QueueLock lock(d.shared);
    result = d.api.vkQueueSubmit(d.queue, 1, &info, VK_NULL_HANDLE);
  }
  if (result != VK_SUCCESS) {
    // A batch that went with it is gone: what it wrote is not there.
    if (list[0] != VK_NULL_HANDLE && n_list > n) d.lost = true;
    return fail_lost(d, result, "vkQueueSubmit", error);
  }
  d.submitted = value;
  out_value = value;
  return MICA_OK;
}

mica_status wait_value(Device& d, uint64_t value, Error& error) {
  VkResult result = VK_SUCCESS;
  if (value > d.submitted) return MICA_OK;  // what was to be submitted was not
  const uint32_t n_spins = spins(d);
  for (uint32_t i = 0; i < n_spins && d.completed < value; ++i)
    if (!read_counter(d, result)) return fail_lost(d, result, "vkGetSemaphoreCounterValue", error);
  auto info = structure<VkSemaphoreWaitInfo>(VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO);
  info.semaphoreCount = 1;
  info.pSemaphores = &d.timeline;
  info.pValues = &value;
  while (d.completed < value) {
    result = d.api.vkWaitSemaphores(d.device, &info, kSliceNs);
    if (result == VK_SUCCESS) d.completed = value;
    if (result != VK_SUCCESS && result != VK_TIMEOUT)
      return fail_lost(d, result, "vkWaitSemaphores", error);
  }
  return MICA_OK;
}

void settle(Device& d, uint64_t value) {
  Error error;
  if (d.lost || value <= d.completed) return;
  const mica_status status = wait_value(d, value, error);
  if (status == MICA_OK || d.lost) return;
  QueueLock lock(d.shared);
  d.api.vkDeviceWaitIdle(d.device);
}

}  // namespace mica::vulkan
