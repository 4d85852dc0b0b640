// Buffers: one VkBuffer with memory of its own each, and submissions counted by a semaphore.
#include "backends/vulkan/device.h"
#include "backends/vulkan/recorder.h"

namespace mica::vulkan {
namespace {

constexpr VkMemoryPropertyFlags kLocal = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
constexpr VkMemoryPropertyFlags kVisible =
    VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
constexpr VkMemoryPropertyFlags kCached = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
constexpr uint32_t kNoType = UINT32_MAX;
// On a discrete GPU, what the host writes in every step is small and lies in memory it can reach.
// Where that is all of the memory, arenas lie there too, so that a token is read without a copy.
constexpr uint64_t kSmallBytes = uint64_t{16} << 20;
constexpr uint64_t kMediumBytes = uint64_t{256} << 20;
constexpr uint64_t kLargeBar = uint64_t{2} << 30;
constexpr uint64_t kUncachedReadBytes = 4096;  // more is copied to cached memory first

// The first type with all of `want` and, if there is one, nothing of `avoid`.
uint32_t find_type(const Device& d, uint32_t allowed, VkMemoryPropertyFlags want,
                   VkMemoryPropertyFlags avoid) {
  for (const VkMemoryPropertyFlags without : {avoid, VkMemoryPropertyFlags{0}})
    for (uint32_t i = 0; i < d.memory.memoryTypeCount; ++i) {
      const VkMemoryPropertyFlags flags = d.memory.memoryTypes[i].propertyFlags;
      if ((allowed >> i & 1) != 0 && (flags & want) == want && (flags & without) == 0) return i;
    }
  return kNoType;
}

uint64_t heap_bytes(const Device& d, uint32_t type) {
  return d.memory.memoryHeaps[d.memory.memoryTypes[type].heapIndex].size;
}

// The types to try, best first.
uint32_t candidate_types(const Device& d, uint32_t allowed, uint64_t bytes, bool staging,
                         uint32_t out[3]) {
  uint32_t n = 0;
  const auto add = [&](uint32_t type) {
    for (uint32_t i = 0; i < n; ++i)
      if (out[i] == type) return;
    if (type != kNoType) out[n++] = type;
  };
  if (staging) {
    add(find_type(d, allowed, kVisible | kCached, kLocal));
    add(find_type(d, allowed, kVisible, 0));
    return n;
  }
  const uint32_t both = find_type(d, allowed, kLocal | kVisible, 0);
  if (both != kNoType) {
    const uint64_t bar = heap_bytes(d, both);
    if (d.unified || bytes <= (bar >= kLargeBar ? kMediumBytes : kSmallBytes)) add(both);
  }
  add(find_type(d, allowed, kLocal, kVisible));
  if (d.unified) add(find_type(d, allowed, kVisible, 0));
  return n;
}

VkResult make_buffer(Device& d, Buffer& b, uint64_t bytes, const void* next) {
  auto info = structure<VkBufferCreateInfo>(VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO);
  info.pNext = next;
  info.size = bytes;
  info.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT |
               VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
  info.sharingMode = VK_SHARING_MODE_EXCLUSIVE;
  const VkResult result = d.api.vkCreateBuffer(d.device, &info, nullptr, &b.buffer);
  if (result != VK_SUCCESS) b.buffer = VK_NULL_HANDLE;
  return result;
}

VkResult allocate_memory(Device& d, Buffer& b, uint64_t bytes, uint32_t type, const void* next) {
  auto flags = structure<VkMemoryAllocateFlagsInfo>(VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO);
  flags.pNext = next;
  flags.flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT;
  auto info = structure<VkMemoryAllocateInfo>(VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO);
  info.pNext = &flags;
  info.allocationSize = bytes;
  info.memoryTypeIndex = type;
  const VkResult result = d.api.vkAllocateMemory(d.device, &info, nullptr, &b.memory);
  if (result != VK_SUCCESS) b.memory = VK_NULL_HANDLE;
  return result;
}

VkResult bind_memory(Device& d, Buffer& b, uint32_t type, bool map) {
  VkResult result = d.api.vkBindBufferMemory(d.device, b.buffer, b.memory, 0);
  if (result != VK_SUCCESS) return result;
  const VkMemoryPropertyFlags flags = d.memory.memoryTypes[type].propertyFlags;
  if (map && (flags & kVisible) == kVisible) {
    void* p = nullptr;
    result = d.api.vkMapMemory(d.device, b.memory, 0, VK_WHOLE_SIZE, 0, &p);
    if (result != VK_SUCCESS) return result;
    b.mapped = static_cast<char*>(p);
    b.cached = (flags & kCached) != 0;
  }
  auto info = structure<VkBufferDeviceAddressInfo>(VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO);
  info.buffer = b.buffer;
  b.address = d.api.vkGetBufferDeviceAddress(d.device, &info);
  return VK_SUCCESS;
}

void free_memory(Device& d, Buffer& b) {
  if (b.memory != VK_NULL_HANDLE) d.api.vkFreeMemory(d.device, b.memory, nullptr);
  b.memory = VK_NULL_HANDLE;
  b.mapped = nullptr;
}

void release(Device& d, Buffer* b) {
  if (b->buffer != VK_NULL_HANDLE) d.api.vkDestroyBuffer(d.device, b->buffer, nullptr);
  free_memory(d, *b);
  unmap_guarded(b->pages);
  destroy(d.allocator, b);
}

mica_status refuse_lost(Device& d, Error& error) {
  if (!d.lost) return MICA_OK;
  return error.fail(MICA_DEVICE_LOST, "vulkan: the device ", quoted(d.name), " was lost");
}

constexpr auto kHostMemory = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;

// INVALID_EXTERNAL_HANDLE: the driver cannot use this memory.
VkResult import_memory(Device& d, Buffer& b, void* memory, uint64_t bytes) {
  auto props = structure<VkMemoryHostPointerPropertiesEXT>(
      VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT);
  if (d.api.vkGetMemoryHostPointerPropertiesEXT(d.device, kHostMemory, memory, &props) !=
      VK_SUCCESS)
    return VK_ERROR_INVALID_EXTERNAL_HANDLE;
  auto external = structure<VkExternalMemoryBufferCreateInfo>(
      VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO);
  external.handleTypes = kHostMemory;
  VkResult result = make_buffer(d, b, bytes, &external);
  if (result != VK_SUCCESS) return result;
  VkMemoryRequirements needs{};
  d.api.vkGetBufferMemoryRequirements(d.device, b.buffer, &needs);
  const uint32_t type = find_type(d, needs.memoryTypeBits & props.memoryTypeBits, kVisible, 0);
  if (type == kNoType || needs.size > bytes) return VK_ERROR_INVALID_EXTERNAL_HANDLE;
  auto import = structure<VkImportMemoryHostPointerInfoEXT>(
      VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT);
  import.handleType = kHostMemory;
  import.pHostPointer = memory;
  result = allocate_memory(d, b, bytes, type, &import);
  return result == VK_SUCCESS ? bind_memory(d, b, type, false) : result;
}

VkResult make_guarded(Device& d, Buffer& b) {
  b.pages = map_guarded(b.bytes, d.min_import_align);
  if (b.pages.memory == nullptr) return VK_ERROR_OUT_OF_DEVICE_MEMORY;
  const VkResult result = import_memory(d, b, b.pages.memory, b.pages.bytes);
  if (result != VK_SUCCESS) return result;
  b.shift = d.guard == Guard::end ? b.pages.bytes - b.bytes : 0;
  b.mapped = b.pages.memory + b.shift;
  b.address += b.shift;
  return VK_SUCCESS;
}

VkResult make_own(Device& d, Buffer& b, bool staging) {
  VkResult result = make_buffer(d, b, b.bytes, nullptr);
  if (result != VK_SUCCESS) return result;
  VkMemoryRequirements needs{};
  d.api.vkGetBufferMemoryRequirements(d.device, b.buffer, &needs);
  uint32_t types[3];
  const uint32_t n = candidate_types(d, needs.memoryTypeBits, b.bytes, staging, types);
  result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
  for (uint32_t i = 0; i < n; ++i) {
    result = allocate_memory(d, b, needs.size, types[i], nullptr);
    if (result == VK_SUCCESS) return bind_memory(d, b, types[i], true);
    if (result == VK_ERROR_DEVICE_LOST) break;
  }
  return result;
}

mica_status make(Device& d, uint64_t bytes, bool staging, Buffer** out, Error& error) {
  *out = nullptr;
  MICA_TRY(refuse_lost(d, error));
  if (bytes == 0) bytes = 64;
  if (bytes > INT64_MAX) return error.out_of_memory("a Vulkan buffer");
  bytes = align_up<uint64_t>(bytes, 16);  // fills and copies go by words
  const bool guarded = d.guard != Guard::none && !staging;
  auto* b = create<Buffer>(d.allocator, Buffer{&d, {}, {}, bytes, 0, nullptr, guarded, 0, 0, {}});
  if (b == nullptr) return error.out_of_memory("a Vulkan buffer");
  const VkResult result = guarded ? make_guarded(d, *b) : make_own(d, *b, staging);
  if (result != VK_SUCCESS) {
    release(d, b);
    char size[32];
    Writer(size, sizeof size).put_bytes(bytes);
    char what[64];
    Writer(what, sizeof what).put("a buffer of ", static_cast<const char*>(size));
    return fail_result(result, what, error);
  }
  *out = b;
  return MICA_OK;
}

// The host may touch the buffer's bytes from here on.
mica_status wait_unused(Buffer& b, Error& error) {
  Device& d = *b.device;
  MICA_TRY(refuse_lost(d, error));
  if (b.last_use > d.submitted) MICA_TRY(d.transfer.flush(d, error));
  return b.last_use > d.completed ? wait_value(d, b.last_use, error) : MICA_OK;
}

mica_status done(Device& d, mica_status status, Error& error) {
  if (status == MICA_OK) status = check_messages(d, error);
  return status == MICA_OK ? MICA_OK : d.fail(error);
}

}  // namespace

mica_status make_staging(Device& d, uint64_t bytes, Buffer** out, Error& error) {
  return make(d, bytes, true, out, error);
}

void free_staging(Buffer* b) { release(*b->device, b); }

mica_status buffer_create(mica_b_device* device, uint64_t bytes, mica_b_buffer** out) {
  *out = nullptr;
  Device& d = of(device);
  Error error;
  Buffer* b = nullptr;
  mica_status status = make(d, bytes, false, &b, error);
  if (b != nullptr) {
    if (b->mapped != nullptr) {
      std::memset(b->mapped, 0, b->bytes);
    } else {
      status = d.transfer.fill_zero(d, *b, error);
    }
    if (status == MICA_OK) status = check_messages(d, error);
    if (status != MICA_OK) buffer_free(handle(b));
  }
  if (status != MICA_OK) return d.fail(error);
  *out = handle(b);
  return MICA_OK;
}

mica_status buffer_import(mica_b_device* device, void* memory, uint64_t bytes,
                          mica_b_buffer** out) {
  *out = nullptr;
  Device* d = &of(device);
  Error error;
  const uint64_t align = d->min_import_align;
  if (align == 0 || !d->unified || d->api.vkGetMemoryHostPointerPropertiesEXT == nullptr)
    return MICA_UNSUPPORTED;
  if (reinterpret_cast<uintptr_t>(memory) % align != 0 || bytes % align != 0 || bytes == 0)
    return MICA_UNSUPPORTED;
  auto* b = create<Buffer>(d->allocator, Buffer{d, {}, {}, bytes, 0, nullptr, true, 0, 0, {}});
  if (b == nullptr) return MICA_OUT_OF_MEMORY;
  const VkResult result = import_memory(*d, *b, memory, bytes);
  if (result != VK_SUCCESS) {
    release(*d, b);
    if (result == VK_ERROR_INVALID_EXTERNAL_HANDLE) return MICA_UNSUPPORTED;
    return d->fail((fail_result(result, "importing host memory", error), error));
  }
  b->mapped = static_cast<char*>(memory);
  if (check_messages(*d, error) != MICA_OK) {
    release(*d, b);
    return d->fail(error);
  }
  *out = handle(b);
  return MICA_OK;
}

void buffer_free(mica_b_buffer* buffer) {
  if (buffer == nullptr) return;
  Buffer* b = &of(buffer);
  Device& d = *b->device;
  // When the open batch, which has a copy of it, cannot be submitted, it is gone: `lost` says so.
  Error error;
  if (b->last_use > d.submitted && !d.lost && d.transfer.flush(d, error) != MICA_OK) d.lose();
  settle(d, b->last_use);
  release(d, b);
}

void* buffer_map(mica_b_buffer* buffer) { return of(buffer).mapped; }

mica_status buffer_write(mica_b_buffer* buffer, uint64_t offset, const void* src, uint64_t bytes) {
  Buffer* b = &of(buffer);
  if (!range_fits(offset, bytes, b->bytes)) return MICA_INVALID_ARGUMENT;
  if (bytes == 0) return MICA_OK;
  Device& d = *b->device;
  Error error;
  mica_status status = MICA_OK;
  if (b->mapped != nullptr) {
    status = wait_unused(*b, error);
    if (status == MICA_OK) std::memcpy(b->mapped + offset, src, bytes);
  } else {
    status = refuse_lost(d, error);
    if (status == MICA_OK) status = d.transfer.write(d, *b, offset, src, bytes, error);
  }
  return done(d, status, error);
}

mica_status read_through(Device& d, Buffer& b, uint64_t offset, void* dst, uint64_t bytes) {
  if (!range_fits(offset, bytes, b.bytes)) return MICA_INVALID_ARGUMENT;
  if (bytes == 0) return MICA_OK;
  Error error;
  mica_status status = MICA_OK;
  if (b.mapped != nullptr && (b.cached || bytes <= kUncachedReadBytes)) {
    status = b.device == &d ? wait_unused(b, error) : refuse_lost(d, error);
    if (status == MICA_OK) std::memcpy(dst, b.mapped + offset, bytes);
  } else {
    status = refuse_lost(d, error);
    if (status == MICA_OK) status = d.transfer.read(d, b, offset, dst, bytes, error);
  }
  return done(d, status, error);
}

mica_status buffer_read(mica_b_buffer* buffer, uint64_t offset, void* dst, uint64_t bytes) {
  Buffer& b = of(buffer);
  return read_through(*b.device, b, offset, dst, bytes);
}

mica_status buffer_copy(mica_b_buffer* to, uint64_t dst_offset, mica_b_buffer* from,
                        uint64_t src_offset, uint64_t bytes) {
  Buffer *dst = &of(to), *src = &of(from);
  if (!range_fits(dst_offset, bytes, dst->bytes) || !range_fits(src_offset, bytes, src->bytes))
    return MICA_INVALID_ARGUMENT;
  if (bytes == 0) return MICA_OK;
  Device& d = *dst->device;
  Error error;
  mica_status status = refuse_lost(d, error);
  if (status == MICA_OK)
    status = d.transfer.copy(d, *dst, dst_offset, *src, src_offset, bytes, error);
  return done(d, status, error);
}

}  // namespace mica::vulkan
