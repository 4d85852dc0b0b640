// The Vulkan backend's device and buffers, and how other files of the backend reach their bytes.
#pragma once
#include <atomic>

#include "backends/vulkan/guard_pages.h"
#include "backends/vulkan/kernel.h"
#include "backends/vulkan/loader.h"
#include "backends/vulkan/pipelines.h"
#include "backends/vulkan/shared.h"
#include "backends/vulkan/transfer.h"

namespace mica::vulkan {

struct Device {
  explicit Device(const mica_host& h) : host(h), allocator(*h.allocator), pipelines(allocator) {}

  mica_host host;
  mica_allocator allocator;
  Loader loader{};           // empty when a test lent the functions
  Shared* shared = nullptr;  // whose instance, device and queue these are; nullptr: its own
  Api api{};
  VkInstance instance = VK_NULL_HANDLE;
  VkDebugUtilsMessengerEXT messenger = VK_NULL_HANDLE;
  VkPhysicalDevice physical = VK_NULL_HANDLE;
  VkDevice device = VK_NULL_HANDLE;
  VkQueue queue = VK_NULL_HANDLE;
  VkCommandPool pool = VK_NULL_HANDLE;
  VkPhysicalDeviceMemoryProperties memory{};
  uint32_t queue_family = 0;
  uint64_t min_import_align = 0;  // 0: host memory cannot be imported
  uint64_t max_buffer_bytes = 0;
  bool has_budget = false;  // VK_EXT_memory_budget
  VkPhysicalDeviceType type = VK_PHYSICAL_DEVICE_TYPE_OTHER;
  bool unified = false;           // integrated or CPU: device memory is host memory
  std::atomic<bool> lost{false};  // sticky; as below
  Guard guard = Guard::none;
  DeviceCaps caps{};
  uint32_t failed_paths = 0;  // bits of self_test.h's paths; caps has them no more
  char name[128] = {};
  uint32_t index = 0;

  // Work on the queue, counted: the semaphore reaches n when submission n is complete.
  VkSemaphore timeline = VK_NULL_HANDLE;
  // Other threads read them when they free weights that this device loaded.
  std::atomic<uint64_t> submitted{0};
  std::atomic<uint64_t> completed{0};  // as last seen

  Pipelines pipelines;
  Transfer transfer;

  // Messages of the validation layers (environment MICA_VULKAN_VALIDATE): the call during which one
  // comes fails with its text.
  uint32_t n_messages = 0;
  uint32_t n_reported = 0;
  char message[400] = {};

  bool cancelled() const {
    return host.cancel != nullptr && __atomic_load_n(host.cancel, __ATOMIC_RELAXED) != 0;
  }
  void lose() {
    lost = true;
    if (shared != nullptr) shared->lost = true;
  }
  mica_status fail(const Error& error) {
    if (error.code() == MICA_DEVICE_LOST) lose();
    if (host.set_error != nullptr) host.set_error(host.user, error.code(), error.text());
    return error.code();
  }
};

struct Buffer {
  Device* device;
  VkBuffer buffer;
  VkDeviceMemory memory;
  uint64_t bytes;
  uint64_t address;   // on the device
  char* mapped;       // nullptr: the host cannot reach it
  bool cached;        // reading `mapped` is fast
  uint64_t last_use;  // the submission that last touches it
  uint64_t shift;     // where its bytes begin in the VkBuffer
  GuardedPages pages;
};

// The boundary's handles.
inline Device& of(mica_b_device* d) { return *reinterpret_cast<Device*>(d); }
inline Buffer& of(mica_b_buffer* b) { return *reinterpret_cast<Buffer*>(b); }
inline mica_b_buffer* handle(Buffer* b) { return reinterpret_cast<mica_b_buffer*>(b); }

// What opens a device: libvulkan, or what a test lends instead of it.
mica_status open_device(const mica_host& host, const char* option,
                        PFN_vkGetInstanceProcAddr get_proc, mica_b_device** out);
void close_device(mica_b_device* device);
// Lists devices without opening one.
uint32_t count_devices(const mica_host& host);
mica_status describe_device(const mica_host& host, uint32_t i, mica_device_info* out);
mica_status device_state(mica_b_device* device, mica_device_info* out);

mica_status buffer_create(mica_b_device* device, uint64_t bytes, mica_b_buffer** out);
mica_status buffer_import(mica_b_device* device, void* memory, uint64_t bytes, mica_b_buffer** out);
void buffer_free(mica_b_buffer* buffer);
void* buffer_map(mica_b_buffer* buffer);
// In the order of the calls and of submitted steps. `src` is free again when it returns.
mica_status buffer_write(mica_b_buffer* buffer, uint64_t offset, const void* src, uint64_t bytes);
mica_status buffer_read(mica_b_buffer* buffer, uint64_t offset, void* dst, uint64_t bytes);
mica_status buffer_copy(mica_b_buffer* dst, uint64_t dst_offset, mica_b_buffer* src,
                        uint64_t src_offset, uint64_t bytes);
// Reads through `device`: the buffer's own, or, for weights that another context loaded, any of the
// same GPU. The owner's is not touched then; it may be at work in another thread.
mica_status read_through(Device& device, Buffer& buffer, uint64_t offset, void* dst,
                         uint64_t bytes);

// Memory that the host writes and reads fast, for copies.
[[nodiscard]] mica_status make_staging(Device& device, uint64_t bytes, Buffer** out, Error& error);
void free_staging(Buffer* buffer);

// Submits command buffers in one go; out_value: the submission's number.
[[nodiscard]] mica_status submit_commands(Device& device, const VkCommandBuffer* commands,
                                          uint32_t n, uint64_t& out_value, Error& error);
// Until that submission is complete.
[[nodiscard]] mica_status wait_value(Device& device, uint64_t value, Error& error);
// The same before something is destroyed: whatever fails, the device is done with it.
void settle(Device& device, uint64_t value);
// INTERNAL with the text of a validation message that came since the last call.
[[nodiscard]] mica_status check_messages(Device& device, Error& error);

}  // namespace mica::vulkan
