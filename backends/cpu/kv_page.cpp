// KV pages seen by the backend. The layout itself: kernels/kv_page.h.
#include "backends/cpu/kv_page.h"

#include <cstring>

#include "backends/cpu/kernels/attention/kv_page.h"

namespace mica::cpu {
namespace {

bool describe(const mica_b_kv_desc& desc, KvPage& out) {
  return kv_page(desc.dtype, desc.is_v != 0, desc.head_dim, desc.n_kv_heads, &out);
}

}  // namespace

mica_status kv_layout(mica_b_device*, const mica_b_kv_desc* desc, uint32_t* out_layout,
                      uint64_t* out_page_bytes) {
  KvPage page;
  if (!describe(*desc, page)) return MICA_UNSUPPORTED;
  // Keeps every product of kv_page() far inside 63 bits.
  constexpr uint32_t kMost = 1u << 20;
  if (desc->head_dim == 0 || desc->n_kv_heads == 0 || desc->head_dim > kMost ||
      desc->n_kv_heads > kMost) {
    return MICA_INVALID_ARGUMENT;
  }
  *out_layout = page.is_v ? kLayoutVPage : kLayoutKPage;
  *out_page_bytes = static_cast<uint64_t>(page.page_bytes);
  return MICA_OK;
}

uint64_t kv_row_bytes(const mica_b_kv_desc& desc) {
  KvPage page;
  return describe(desc, page) ? static_cast<uint64_t>(page.row_bytes) : 0;
}

void kv_pack_cell(const mica_b_kv_desc& desc, void* page, uint32_t i_kv_head, uint32_t cell,
                  const void* row) {
  KvPage p;
  if (!describe(desc, p)) return;
  char* head = static_cast<char*>(page) + p.head_bytes * i_kv_head;
  const char* from = static_cast<const char*>(row);
  kv_walk_cell(p, cell, [&](int64_t at, int64_t in_row, int64_t bytes) {
    std::memcpy(head + at, from + in_row, static_cast<size_t>(bytes));
  });
}

void kv_unpack_cell(const mica_b_kv_desc& desc, const void* page, uint32_t i_kv_head, uint32_t cell,
                    void* row) {
  KvPage p;
  if (!describe(desc, p)) return;
  const char* head = static_cast<const char*>(page) + p.head_bytes * i_kv_head;
  char* to = static_cast<char*>(row);
  kv_walk_cell(p, cell, [&](int64_t at, int64_t in_row, int64_t bytes) {
    std::memcpy(to + in_row, head + at, static_cast<size_t>(bytes));
  });
}

}  // namespace mica::cpu
