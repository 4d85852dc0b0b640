// KV pages: the backend table's functions. The layout itself: kv.h.
#include "backends/cuda/kv.h"

#include "backends/cuda/device.h"
#include "core/base/vec.h"

namespace mica::cuda {
namespace {

bool describe(const mica_b_kv_desc& desc, KvPage& out) {
  return kv_page(desc.dtype, desc.head_dim, desc.n_kv_heads, out);
}

// A page's bytes and its plain rows' on the host, while they are moved about.
class Scratch {
 public:
  Scratch(const mica_allocator& a, uint64_t bytes)
      : allocator_(a), bytes_(bytes), data_(static_cast<char*>(allocate(a, bytes))) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { deallocate(allocator_, data_, bytes_); }
  char* data() const { return data_; }

 private:
  const mica_allocator& allocator_;
  uint64_t bytes_;
  char* data_;
};

mica_status out_of_memory(mica_b_device& device) {
  Error error;
  error.out_of_memory("a page of the kv cache");
  return device.fail(error);
}

}  // namespace

mica_status kv_layout(mica_b_device*, const mica_b_kv_desc* desc, uint32_t* out_layout,
                      uint64_t* out_page_bytes) {
  // Keeps every product of kv_page() inside 32 bits.
  constexpr uint32_t kMostDim = 1u << 16;
  constexpr uint32_t kMostHeads = 1u << 20;
  KvPage page;
  if (desc->head_dim == 0 || desc->n_kv_heads == 0 || desc->head_dim > kMostDim ||
      desc->n_kv_heads > kMostHeads)
    return MICA_INVALID_ARGUMENT;
  if (!describe(*desc, page)) return MICA_UNSUPPORTED;
  *out_layout = kLayoutKvPage;
  *out_page_bytes = page.page_bytes;
  return MICA_OK;
}

mica_status kv_pack(mica_b_device* device, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                    uint64_t offset, const void* rows) {
  const mica_status status = enter(*device);
  if (status != MICA_OK) return status;
  KvPage page;
  if (!describe(*desc, page)) return MICA_UNSUPPORTED;
  const Scratch scratch(device->allocator, page.page_bytes);
  if (scratch.data() == nullptr) return out_of_memory(*device);
  kv_rows_to_page(page, rows, scratch.data());
  buffer->waits = true;
  return upload(*device, buffer->address + offset, scratch.data(), page.page_bytes);
}

mica_status kv_unpack(mica_b_device* device, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                      uint64_t offset, void* rows) {
  const mica_status status = enter(*device);
  if (status != MICA_OK) return status;
  KvPage page;
  if (!describe(*desc, page)) return MICA_UNSUPPORTED;
  const Scratch scratch(device->allocator, page.page_bytes);
  if (scratch.data() == nullptr) return out_of_memory(*device);
  const mica_status got =
      download(*device, scratch.data(), buffer->address + offset, page.page_bytes);
  if (got == MICA_OK) kv_page_to_rows(page, scratch.data(), rows);
  return got;
}

}  // namespace mica::cuda
