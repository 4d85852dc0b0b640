// kv_append: rows of K or V into the cells of a cache, converted to its type bit by bit as the
// reference encoders do.
#include "backends/cuda/kernels/plain_rows.cuh"
#include "backends/cuda/kv.h"

namespace mica::cuda {
namespace {

constexpr int kThreads = 128;

struct AppendArgs {
  KvPage page;
  Tensor rows;
  uint64_t state, slots, live;
  int64_t n_cells, n_tokens;
};

__device__ void put_plain(const AppendArgs& a, char* head, uint32_t cell, const char* row,
                          uint32_t i) {
  const float v = i < a.page.head_dim ? float_at(a.rows.dtype, row, i) : 0.0f;
  char* to = head + kv_elem_at(a.page, cell, i);
  if (a.rows.dtype == a.page.dtype && a.page.elem_bytes == 2) {
    *reinterpret_cast<uint16_t*>(to) =
        i < a.page.head_dim ? reinterpret_cast<const uint16_t*>(row)[i] : 0;
  } else {
    store_float(a.page.dtype, v, to);
  }
}

__device__ void put_block(const AppendArgs& a, char* head, uint32_t cell, const char* row,
                          uint32_t block) {
  float x[32];
#pragma unroll
  for (uint32_t i = 0; i < 32; ++i) {
    const uint32_t at = block * 32 + i;
    x[i] = at < a.page.head_dim ? float_at(a.rows.dtype, row, at) : 0.0f;
  }
  uint8_t bytes[36];
  encode_block32(a.page.dtype, x, bytes);
  kv_visit_block(a.page, cell, block, [&](uint32_t at, uint32_t in_block, uint32_t n) {
    uint8_t* to = reinterpret_cast<uint8_t*>(head) + at;
    for (uint32_t i = 0; i < n; ++i) to[i] = bytes[in_block + i];
  });
}

// A thread an element, or of quantized types a block of 32.
__global__ void __launch_bounds__(kThreads) append_kernel(const __grid_constant__ AppendArgs a) {
  wait_for_inputs();
  start_next();
  const uint32_t units = a.page.elem_bytes != 0 ? a.page.row_elems : a.page.n_blocks;
  const int64_t n_tokens = min(live_count(a.live, a.n_tokens), a.n_tokens);
  const int64_t n = n_tokens * a.page.n_kv_heads * units;
  const int32_t* slots = reinterpret_cast<const int32_t*>(a.slots);
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t i_row = i / units;
    const uint32_t unit = static_cast<uint32_t>(i - i_row * units);
    const int64_t token = i_row / a.page.n_kv_heads;
    const uint32_t i_head = static_cast<uint32_t>(i_row - token * a.page.n_kv_heads);
    const int32_t slot = slots[token];
    if (slot < 0 || slot >= a.n_cells) continue;
    char* head = reinterpret_cast<char*>(a.state) +
                 static_cast<uint64_t>(slot / kPageCells) * a.page.page_bytes +
                 static_cast<uint64_t>(i_head) * a.page.head_bytes;
    const char* row = row_at(a.rows, {i_head, token, 0});
    const uint32_t cell = static_cast<uint32_t>(slot % kPageCells);
    if (a.page.elem_bytes != 0) {
      put_plain(a, head, cell, row, unit);
    } else {
      put_block(a, head, cell, row, unit);
    }
  }
}

bool describe(const Call& call, KvPage& page) {
  const Tensor& state = call.out;
  return kv_page(state.dtype, static_cast<uint32_t>(state.dim[0]),
                 static_cast<uint32_t>(state.dim[1]), page);
}

const char* supports(const Call& call) {
  KvPage page;
  if (!describe(call, page)) return "pages are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 or Q5_1";
  if (call.out.layout != kLayoutKvPage) return "the state is not a cache of this backend";
  if (call.in[1].layout != 0) return "the rows are a weight in a layout of the backend's";
  return nullptr;
}

mica_status record(const Call& call, Recorder& recorder) {
  AppendArgs a = {};
  describe(call, a.page);
  a.rows = call.in[1];
  a.state = call.out.address;
  a.slots = call.in[2].address;
  a.live = call.in[2].live;
  a.n_cells = call.out.dim[2];
  a.n_tokens = a.rows.dim[2];
  const int64_t units = a.page.elem_bytes != 0 ? a.page.row_elems : a.page.n_blocks;
  const int64_t n = a.n_tokens * a.page.n_kv_heads * units;
  return launch(recorder, append_kernel, grid_for(call, (n + kThreads - 1) / kThreads, 16),
                dim3(kThreads), 0, a);
}

constexpr Kernel kRows[] = {{"kv_append", "", supports, numerics_exact, nullptr, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(kv_append, kRows)
