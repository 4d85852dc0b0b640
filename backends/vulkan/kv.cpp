// See kv.h. Pages are put together on the host and moved whole.
#include "backends/vulkan/kv.h"

#include "backends/vulkan/device.h"
#include "core/base/vec.h"

namespace mica::vulkan {
namespace {

constexpr int64_t kMost = 1 << 20;  // keeps every product far inside 63 bits

uint64_t block_bytes(const KvPage& p) {
  return uint64_t{p.scale_bytes} + p.fifth_bytes + p.quant_bytes;
}

// Visits the pieces of a cell's plain row with their places in the head's part of the page:
// move(place in the head, place in the row, bytes).
template <class Move>
void walk_cell(const KvPage& p, uint64_t cell, Move move) {
  if (p.elem_bytes != 0) {
    move(cell * p.row_bytes, uint64_t{0}, p.plain_bytes);
    return;
  }
  const uint64_t fifths = kPageCells * p.row_bytes;
  const uint64_t scales = fifths + kPageCells * uint64_t{p.n_blocks} * p.fifth_bytes;
  for (uint64_t block = 0; block < p.n_blocks; ++block) {
    const uint64_t i = cell * p.n_blocks + block;
    uint64_t row = block * block_bytes(p);
    move(scales + i * p.scale_bytes, row, uint64_t{p.scale_bytes});
    row += p.scale_bytes;
    if (p.fifth_bytes != 0) move(fifths + i * p.fifth_bytes, row, uint64_t{p.fifth_bytes});
    row += p.fifth_bytes;
    move(i * p.quant_bytes, row, uint64_t{p.quant_bytes});
  }
}

struct Staged {
  Staged(const mica_allocator& a, uint64_t n)
      : allocator(a), bytes(static_cast<size_t>(n)), data(static_cast<char*>(allocate(a, bytes))) {}
  ~Staged() { deallocate(allocator, data, bytes); }
  Staged(const Staged&) = delete;
  Staged& operator=(const Staged&) = delete;
  const mica_allocator& allocator;
  size_t bytes;
  char* data;
};

mica_status no_memory(Device& d) {
  Error error;
  (void)error.fail(MICA_OUT_OF_MEMORY, "out of memory: a page of the KV cache");
  return d.fail(error);
}

}  // namespace

bool kv_page(mica_dtype dtype, int64_t head_dim, int64_t n_kv_heads, KvPage& out) {
  KvPage p{};
  switch (dtype) {
    case MICA_F32:
      p.elem_bytes = 4;
      break;
    case MICA_F16:
    case MICA_BF16:
      p.elem_bytes = 2;
      break;
    case MICA_Q8_0:
      p.quant_bytes = 32;
      break;
    case MICA_Q4_0:
    case MICA_Q4_1:
    case MICA_Q5_0:
    case MICA_Q5_1:
      p.quant_bytes = 16;
      break;
    default:
      return false;
  }
  if (head_dim < 1 || n_kv_heads < 1 || head_dim > kMost || n_kv_heads > kMost) return false;
  const auto dim = static_cast<uint32_t>(head_dim);
  if (p.elem_bytes != 0) {
    p.row_elems = (dim + 7) / 8 * 8;
    p.row_bytes = uint64_t{p.row_elems} * p.elem_bytes;
    p.plain_bytes = uint64_t{dim} * p.elem_bytes;
    p.head_bytes = kPageCells * p.row_bytes;
  } else {
    p.fifth_bytes = dtype == MICA_Q5_0 || dtype == MICA_Q5_1 ? 4 : 0;
    p.scale_bytes = dtype == MICA_Q4_1 || dtype == MICA_Q5_1 ? 4 : 2;
    p.n_blocks = (dim + 31) / 32;
    p.row_elems = p.n_blocks * 32;
    p.row_bytes = uint64_t{p.n_blocks} * p.quant_bytes;
    p.plain_bytes = p.n_blocks * block_bytes(p);
    p.head_bytes = kPageCells * p.plain_bytes;
  }
  p.page_bytes = p.head_bytes * static_cast<uint64_t>(n_kv_heads);
  out = p;
  return true;
}

mica_status kv_layout(mica_b_device*, const mica_b_kv_desc* desc, uint32_t* out_layout,
                      uint64_t* out_page_bytes) {
  KvPage page;
  if (!kv_page(desc->dtype, 1, 1, page)) return MICA_UNSUPPORTED;
  if (!kv_page(desc->dtype, desc->head_dim, desc->n_kv_heads, page)) return MICA_INVALID_ARGUMENT;
  *out_layout = kLayoutKvPage;
  *out_page_bytes = page.page_bytes;
  return MICA_OK;
}

mica_status kv_pack(mica_b_device* device, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                    uint64_t offset, const void* rows) {
  KvPage p;
  if (!kv_page(desc->dtype, desc->head_dim, desc->n_kv_heads, p)) return MICA_INVALID_ARGUMENT;
  Staged staged(of(device).allocator, p.page_bytes);
  if (staged.data == nullptr) return no_memory(of(device));
  std::memset(staged.data, 0, staged.bytes);
  const char* from = static_cast<const char*>(rows);
  for (uint64_t cell = 0; cell < kPageCells; ++cell) {
    for (uint64_t head = 0; head < desc->n_kv_heads; ++head, from += p.plain_bytes) {
      char* to = staged.data + head * p.head_bytes;
      walk_cell(p, cell, [&](uint64_t at, uint64_t in_row, uint64_t bytes) {
        std::memcpy(to + at, from + in_row, static_cast<size_t>(bytes));
      });
    }
  }
  return buffer_write(buffer, offset, staged.data, p.page_bytes);
}

mica_status kv_unpack(mica_b_device* device, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                      uint64_t offset, void* rows) {
  KvPage p;
  if (!kv_page(desc->dtype, desc->head_dim, desc->n_kv_heads, p)) return MICA_INVALID_ARGUMENT;
  Staged staged(of(device).allocator, p.page_bytes);
  if (staged.data == nullptr) return no_memory(of(device));
  MICA_TRY(buffer_read(buffer, offset, staged.data, p.page_bytes));
  char* to = static_cast<char*>(rows);
  for (uint64_t cell = 0; cell < kPageCells; ++cell) {
    for (uint64_t head = 0; head < desc->n_kv_heads; ++head, to += p.plain_bytes) {
      const char* from = staged.data + head * p.head_bytes;
      walk_cell(p, cell, [&](uint64_t at, uint64_t in_row, uint64_t bytes) {
        std::memcpy(to + in_row, from + at, static_cast<size_t>(bytes));
      });
    }
  }
  return MICA_OK;
}

}  // namespace mica::vulkan
