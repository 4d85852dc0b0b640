// kv_append: rows of K or V into the cells of a cache, converted to its type bit by bit as the
// reference encoders do.
#include "backends/cuda/kernels/attention/kv_block.cuh"
#include "backends/cuda/kernels/plain_rows.cuh"
#include "backends/gpu/layouts.h"

namespace mica::cuda {
namespace {

constexpr int kThreads = 128;

constexpr uint32_t kRun = 8;  // elements of a thread; rows are stored as multiples of 16

struct AppendArgs {
  KvPage page;
  Tensor rows;
  uint64_t state, slots, live;
  int64_t n_cells;
  int32_t n_tokens;
  bool wide;  // rows are F32 that 16-byte loads may read
};

// Loads now, whether or not the values will be wanted.
__device__ inline float4 load_four(const float4* p) {
  float4 x;
  asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "l"(p));
  return x;
}

// Elements i … i + n - 1 of a row, n a multiple of 4; zeros beyond it.
template <uint32_t n>
__device__ void load_run(const AppendArgs& a, const char* row, uint32_t i, float (&x)[n]) {
  if (a.wide && i + n <= a.page.head_dim) {
    const float4* from = reinterpret_cast<const float4*>(row + i * 4);
#pragma unroll
    for (uint32_t j = 0; j < n / 4; ++j) {
      const float4 four = load_four(from + j);
      x[4 * j] = four.x, x[4 * j + 1] = four.y, x[4 * j + 2] = four.z, x[4 * j + 3] = four.w;
    }
    return;
  }
#pragma unroll
  for (uint32_t j = 0; j < n; ++j)
    x[j] = i + j < a.page.head_dim ? float_at(a.rows.dtype, row, i + j) : 0.0f;
}

// 16-bit words of eight elements to one that holds two each.
__device__ uint4 packed(const uint16_t (&h)[kRun]) {
  const auto two = [&](int i) { return h[i] | static_cast<uint32_t>(h[i + 1]) << 16; };
  return {two(0), two(2), two(4), two(6)};
}

__device__ void put_plain(const AppendArgs& a, char* to, const char* row, uint32_t i,
                          const float (&x)[kRun]) {
  if (a.page.dtype == MICA_F32) {
    uint32_t bits[kRun];
#pragma unroll
    for (uint32_t j = 0; j < kRun; ++j) bits[j] = quiet_f32(bits_of(x[j]));
    reinterpret_cast<uint4*>(to)[0] = {bits[0], bits[1], bits[2], bits[3]};
    reinterpret_cast<uint4*>(to)[1] = {bits[4], bits[5], bits[6], bits[7]};
    return;
  }
  uint16_t h[kRun];
  if (a.rows.dtype == a.page.dtype) {  // a NaN keeps its payload
#pragma unroll
    for (uint32_t j = 0; j < kRun; ++j) {
      const uint16_t bits =
          i + j < a.page.head_dim ? reinterpret_cast<const uint16_t*>(row)[i + j] : uint16_t{0};
      h[j] = a.page.dtype == MICA_F16 ? quiet_f16(bits) : quiet_bf16(bits);
    }
  } else {
#pragma unroll
    for (uint32_t j = 0; j < kRun; ++j)
      h[j] = a.page.dtype == MICA_F16 ? f32_to_f16(x[j]) : f32_to_bf16(x[j]);
  }
  *reinterpret_cast<uint4*>(to) = packed(h);
}

// kRun elements a thread, or of quantized types a block of 32. blockIdx.y: tokens, in strides of
// the grid. What is loaded is on its way before the slot is known.
__global__ void __launch_bounds__(kThreads) append_kernel(const __grid_constant__ AppendArgs a) {
  const bool plain = a.page.elem_bytes != 0;
  const uint32_t units = plain ? a.page.row_elems / kRun : a.page.n_blocks;
  const uint32_t at = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t i_head = at / units;
  const uint32_t unit = at - i_head * units;
  wait_for_inputs();
  start_next();
  if (i_head >= a.page.n_kv_heads) return;
  const int64_t n_live = live_count(a.live, a.n_tokens);
  const auto* slots = reinterpret_cast<const volatile int32_t*>(a.slots);
  for (int32_t token = static_cast<int32_t>(blockIdx.y); token < a.n_tokens;
       token += static_cast<int32_t>(gridDim.y)) {
    const int32_t slot = slots[token];
    const char* row = row_at(a.rows, {i_head, token, 0});
    const bool real = token < n_live && slot >= 0 && slot < a.n_cells;
    const uint32_t page = real ? static_cast<uint32_t>(slot) / kPageCells : 0;
    const uint32_t cell = static_cast<uint32_t>(slot) % kPageCells;
    char* head = reinterpret_cast<char*>(a.state) + page * a.page.page_bytes +
                 static_cast<uint64_t>(i_head) * a.page.head_bytes;
    if (plain) {
      float x[kRun];
      load_run(a, row, unit * kRun, x);
      if (real) put_plain(a, head + kv_elem_at(a.page, cell, unit * kRun), row, unit * kRun, x);
    } else {
      float x[32];
      load_run(a, row, unit * 32, x);
      if (real) put_kv_block(a.page, head, cell, unit, x);
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
  if (call.in[1].dim[2] > INT32_MAX) return "there are more than 2^31 tokens";
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
  a.n_tokens = static_cast<int32_t>(a.rows.dim[2]);
  const int64_t place = static_cast<int64_t>(a.rows.address) | a.rows.stride[1] | a.rows.stride[2];
  a.wide = a.rows.dtype == MICA_F32 && place % 16 == 0;
  const uint32_t units = a.page.elem_bytes != 0 ? a.page.row_elems / kRun : a.page.n_blocks;
  const uint32_t n = a.page.n_kv_heads * units;  // kv_layout() keeps it inside 32 bits
  const dim3 grid((n + kThreads - 1) / kThreads,
                  static_cast<unsigned>(a.n_tokens < 32768 ? a.n_tokens : 32768));
  return launch(recorder, append_kernel, grid, dim3(kThreads), 0, a);
}

constexpr Kernel kRows[] = {
    {"kv_append", "", supports, numerics_exact, nullptr, record, gpu::takes_page<kLayoutKvPage>}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(kv_append, kRows)
