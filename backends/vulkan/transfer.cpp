// Staging: batches of copies in front of the next submission.
#include "backends/vulkan/transfer.h"

#include <algorithm>

#include "backends/vulkan/recorder.h"

namespace mica::vulkan {

namespace {

constexpr VkPipelineStageFlags kWork =
    VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;

// The open batch goes with the next submission, whatever that is. Of a buffer of another context
// nothing is noted: it is only read, and that is waited for.
void used_next(const Device& d, Buffer& b) {
  if (b.device == &d) b.last_use = d.submitted + 1;
}

}  // namespace

// A block whose last submission is complete, recording.
mica_status Transfer::open_batch(Device& d, Error& error) {
  if (block().open) return MICA_OK;
  current_ = (current_ + 1) % kBlocks;
  Block& b = block();
  if (b.value > d.completed) MICA_TRY(wait_value(d, b.value, error));
  if (b.buffer == nullptr) MICA_TRY(make_staging(d, kBlockBytes, &b.buffer, error));
  if (b.commands == VK_NULL_HANDLE) {
    auto info =
        structure<VkCommandBufferAllocateInfo>(VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO);
    info.commandPool = d.pool;
    info.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
    info.commandBufferCount = 1;
    const VkResult result = d.api.vkAllocateCommandBuffers(d.device, &info, &b.commands);
    if (result != VK_SUCCESS) {
      b.commands = VK_NULL_HANDLE;
      return fail_result(result, "vkAllocateCommandBuffers", error);
    }
  }
  auto begin = structure<VkCommandBufferBeginInfo>(VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO);
  begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  const VkResult result = d.api.vkBeginCommandBuffer(b.commands, &begin);
  if (result != VK_SUCCESS) return fail_result(result, "vkBeginCommandBuffer", error);
  b.used = 0;
  b.open = true;
  return MICA_OK;
}

// Up to `wanted` bytes of staging memory in an open batch.
mica_status Transfer::room(Device& d, uint64_t wanted, uint64_t& offset, uint64_t& bytes,
                           Error& error) {
  if (block().open && block().used == kBlockBytes) MICA_TRY(flush(d, error));
  MICA_TRY(open_batch(d, error));
  offset = block().used;
  bytes = std::min(wanted, kBlockBytes - offset);
  block().used = std::min(kBlockBytes, align_up<uint64_t>(offset + bytes, 16));
  return MICA_OK;
}

mica_status Transfer::write(Device& d, Buffer& to, uint64_t offset, const void* src, uint64_t bytes,
                            Error& error) {
  const char* from = static_cast<const char*>(src);
  while (bytes > 0) {
    uint64_t at = 0, n = 0;
    MICA_TRY(room(d, bytes, at, n, error));
    std::memcpy(block().buffer->mapped + at, from, n);
    memory_barrier(d.api, block().commands, kWork, VK_PIPELINE_STAGE_TRANSFER_BIT);
    const VkBufferCopy region{at, to.shift + offset, n};
    d.api.vkCmdCopyBuffer(block().commands, block().buffer->buffer, to.buffer, 1, &region);
    used_next(d, to);
    from += n;
    offset += n;
    bytes -= n;
  }
  return MICA_OK;
}

mica_status Transfer::read(Device& d, Buffer& from, uint64_t offset, void* dst, uint64_t bytes,
                           Error& error) {
  char* to = static_cast<char*>(dst);
  while (bytes > 0) {
    uint64_t at = 0, n = 0;
    MICA_TRY(room(d, bytes, at, n, error));
    memory_barrier(d.api, block().commands, kWork, VK_PIPELINE_STAGE_TRANSFER_BIT);
    const VkBufferCopy region{from.shift + offset, at, n};
    d.api.vkCmdCopyBuffer(block().commands, from.buffer, block().buffer->buffer, 1, &region);
    memory_barrier(d.api, block().commands, VK_PIPELINE_STAGE_TRANSFER_BIT,
                   VK_PIPELINE_STAGE_HOST_BIT);
    used_next(d, from);
    const char* staged = block().buffer->mapped + at;
    MICA_TRY(flush(d, error));
    MICA_TRY(wait_value(d, d.submitted, error));
    std::memcpy(to, staged, n);
    to += n;
    offset += n;
    bytes -= n;
  }
  return MICA_OK;
}

mica_status Transfer::copy(Device& d, Buffer& to, uint64_t to_offset, Buffer& from,
                           uint64_t from_offset, uint64_t bytes, Error& error) {
  if (&to == &from && to_offset < from_offset + bytes && from_offset < to_offset + bytes)
    return error.fail(MICA_INVALID_ARGUMENT, "vulkan: a buffer is copied onto itself");
  MICA_TRY(open_batch(d, error));
  memory_barrier(d.api, block().commands, kWork, VK_PIPELINE_STAGE_TRANSFER_BIT);
  const VkBufferCopy region{from.shift + from_offset, to.shift + to_offset, bytes};
  d.api.vkCmdCopyBuffer(block().commands, from.buffer, to.buffer, 1, &region);
  used_next(d, to);
  used_next(d, from);
  return MICA_OK;
}

mica_status Transfer::fill_zero(Device& d, Buffer& to, Error& error) {
  MICA_TRY(open_batch(d, error));
  memory_barrier(d.api, block().commands, kWork, VK_PIPELINE_STAGE_TRANSFER_BIT);
  d.api.vkCmdFillBuffer(block().commands, to.buffer, 0, VK_WHOLE_SIZE, 0);
  used_next(d, to);
  return MICA_OK;
}

mica_status Transfer::take_batch(Device& d, VkCommandBuffer& out, Error& error) {
  out = VK_NULL_HANDLE;
  Block& b = block();
  if (!b.open) return MICA_OK;
  memory_barrier(d.api, b.commands, VK_PIPELINE_STAGE_TRANSFER_BIT,
                 kWork | VK_PIPELINE_STAGE_HOST_BIT);
  b.open = false;
  const VkResult result = d.api.vkEndCommandBuffer(b.commands);
  if (result != VK_SUCCESS) return fail_result(result, "vkEndCommandBuffer", error);
  out = b.commands;
  b.value = d.submitted + 1;
  return MICA_OK;
}

mica_status Transfer::flush(Device& d, Error& error) {
  if (!block().open) return MICA_OK;
  uint64_t value = 0;
  return submit_commands(d, nullptr, 0, value, error);
}

void Transfer::close(Device& d) {
  for (Block& b : blocks_) {
    if (b.commands != VK_NULL_HANDLE) d.api.vkFreeCommandBuffers(d.device, d.pool, 1, &b.commands);
    if (b.buffer != nullptr) free_staging(b.buffer);
    b = Block{};
  }
}

}  // namespace mica::vulkan
