// Recording dispatches and barriers.
#include "backends/vulkan/recorder.h"

namespace mica::vulkan {
namespace {

VkAccessFlags accesses(VkPipelineStageFlags stages, bool source) {
  VkAccessFlags access = 0;
  if ((stages & VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT) != 0)
    access |= VK_ACCESS_SHADER_WRITE_BIT | (source ? 0 : VK_ACCESS_SHADER_READ_BIT);
  if ((stages & VK_PIPELINE_STAGE_TRANSFER_BIT) != 0)
    access |= VK_ACCESS_TRANSFER_WRITE_BIT | (source ? 0 : VK_ACCESS_TRANSFER_READ_BIT);
  if ((stages & VK_PIPELINE_STAGE_HOST_BIT) != 0)
    access |= source ? VK_ACCESS_HOST_WRITE_BIT : VK_ACCESS_HOST_READ_BIT;
  return access;
}

}  // namespace

void memory_barrier(const Api& api, VkCommandBuffer commands, VkPipelineStageFlags from,
                    VkPipelineStageFlags to) {
  auto barrier = structure<VkMemoryBarrier>(VK_STRUCTURE_TYPE_MEMORY_BARRIER);
  barrier.srcAccessMask = accesses(from, true);
  barrier.dstAccessMask = accesses(to, false);
  api.vkCmdPipelineBarrier(commands, from, to, 0, 1, &barrier, 0, nullptr, 0, nullptr);
}

// What came before, on the queue or from the host, is visible to the first dispatch; what the last
// one wrote is to whatever follows.
mica_status Recorder::begin(VkCommandBuffer commands) {
  commands_ = commands;
  bound_ = VK_NULL_HANDLE;
  dirty_ = false;
  auto info = structure<VkCommandBufferBeginInfo>(VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO);
  const VkResult result = device_.api.vkBeginCommandBuffer(commands, &info);
  if (result != VK_SUCCESS) return fail_result(result, "vkBeginCommandBuffer", error_);
  memory_barrier(device_.api, commands,
                 VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT,
                 VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT);
  return MICA_OK;
}

mica_status Recorder::end() {
  memory_barrier(device_.api, commands_, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                 VK_PIPELINE_STAGE_HOST_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT);
  const VkResult result = device_.api.vkEndCommandBuffer(commands_);
  return result == VK_SUCCESS ? MICA_OK : fail_result(result, "vkEndCommandBuffer", error_);
}

void Recorder::barrier() {
  if (!dirty_) return;
  dirty_ = false;
  ++n_barriers_;
  memory_barrier(device_.api, commands_, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                 VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT);
}

mica_status Recorder::dispatch(const Dispatch& d) {
  const char* const name = d.shader->name;
  for (uint32_t i = 0; i < 3; ++i) {
    if (d.groups[i] == 0) return MICA_OK;  // nothing to do
    if (d.groups[i] > device_.caps.max_groups[i])
      return error_.fail(MICA_UNSUPPORTED, "vulkan: ", name, " needs ", d.groups[i],
                         " workgroups in dimension ", i, ", the device has ",
                         device_.caps.max_groups[i]);
  }
  if (d.push_bytes > kMaxPushBytes || d.push_bytes % 4 != 0 || d.n_specs > kMaxSpecs)
    return error_.fail(MICA_INTERNAL, "vulkan: ", name, " is dispatched with ", d.push_bytes,
                       " bytes and ", d.n_specs, " constants");
  VkPipeline pipeline = VK_NULL_HANDLE;
  MICA_TRY(device_.pipelines.find(d, pipeline, error_));
  const Api& api = device_.api;
  if (pipeline != bound_)
    api.vkCmdBindPipeline(commands_, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
  bound_ = pipeline;
  if (d.push_bytes > 0)
    api.vkCmdPushConstants(commands_, device_.pipelines.layout(), VK_SHADER_STAGE_COMPUTE_BIT, 0,
                           d.push_bytes, d.push);
  api.vkCmdDispatch(commands_, d.groups[0], d.groups[1], d.groups[2]);
  dirty_ = true;
  ++n_dispatches_;
  return MICA_OK;
}

mica_status dispatch(Recorder& recorder, const Dispatch& d) { return recorder.dispatch(d); }
void barrier(Recorder& recorder) { recorder.barrier(); }
mica_status constants(Recorder& recorder, const void* data, uint32_t bytes, uint64_t& out_address) {
  return recorder.constants(data, bytes, out_address);
}

}  // namespace mica::vulkan
