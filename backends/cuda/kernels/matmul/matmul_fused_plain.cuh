// As matmul_fused.cuh, of weights that are plain rows of F16 or BF16: x is F32 in shared memory,
// and so are products. Rows come by asynchronous copies of 16 bytes, each of which the lane that
// asked for it also uses: so its own count of copies is all that a lane waits for. And the launches
// of both kernels.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_dots.cuh"
#include "backends/cuda/kernels/matmul/matmul_fused.cuh"

namespace mica::cuda {

// Rows of x as F32. Elements 8i … 8i + 3 of row m are at [2m * n_eights + i], the next four at
// [(2m + 1) * n_eights + i].
struct PlainImage {
  float4* at;
  int n_eights;
  __device__ int n_quads() const { return 2 * n_eights; }
  __device__ void put(int m, int quad, const float4& v) const {
    at[(2 * m + quad % 2) * n_eights + quad / 2] = v;
  }
};

__device__ inline void store_shared16(SharedAddress to, const uint4& v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}
__device__ inline void copy_once16(SharedAddress to, const void* from, uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "l"(policy)
               : "memory");
}
// The same from anywhere, or zeros; they are there at once. Seldom needed, and no part of the loop,
// which has no cycles to spare.
__device__ __noinline__ inline void put_slowly16(SharedAddress to, const uint8_t* from,
                                                 bool zeros) {
  uint32_t v[4] = {};
  for (int i = 0; i < 4 && !zeros; ++i) {
    const uint16_t* two = reinterpret_cast<const uint16_t*>(from) + 2 * i;
    v[i] = two[0] | static_cast<uint32_t>(two[1]) << 16;
  }
  store_shared16(to, make_uint4(v[0], v[1], v[2], v[3]));
}
// Waits until the oldest of n_stages groups of copies, 2 to 4, is there: how many may be under way
// is part of the instruction.
__device__ inline void wait_oldest(int n_stages) {
  if (n_stages == 4)
    wait_copies<3>();
  else if (n_stages == 3)
    wait_copies<2>();
  else
    wait_copies<1>();
}

// What fills a lane's slots. A unit is 128 elements of a group's eight rows: lanes 0…15 have eight
// elements each of rows 0…3, lanes 16…31 of rows 4…7; a slot has 16 bytes a lane of each.
template <class Args>
struct PlainFeed {
  const Args& a;
  StreamPlace place;
  const uint8_t* row[4];  // the lane's next 16 bytes
  SharedAddress ring, to;
  uint64_t policy;
  int slot, n_stages;
  int left;      // units of the run
  int n_elems;   // of K from the lane's place on
  bool aligned;  // a view can start anywhere

  __device__ PlainFeed(const Args& args, const StreamPlace& at, const uint8_t* ring_at, int stages)
      : a(args), place(at), row(), ring(shared_at(ring_at)), to(ring), policy(read_once_policy()),
        slot(0), n_stages(stages), left(0), n_elems(0), aligned(true) {}
  // To the next run; without one `left` stays 0.
  __device__ void next_run(int lane, int warp, int most) {
    while (place.unit >= place.end) {
      if (!place.more()) return;
      place.round += most;
      if (!place.more()) return;
      place.enter(warp, most);
    }
    const FlatGroup at = flat_group(a, place.first + place.round + place.group);
    const Segment& s = a.segment[at.segment];
    const int64_t stride = s.group_bytes / kGroupRows;
    const int elem = place.step * static_cast<int>(kChunkElems) + lane % 16 * 8;
#pragma unroll
    for (int j = 0; j < 4; ++j) {  // rows beyond the last one repeat it; their sums go nowhere
      const int64_t n = at.group * kGroupRows + lane / 16 * 4 + j;
      row[j] = s.w + (n < s.n ? n : s.n - 1) * stride + elem * 2;
    }
    aligned = reinterpret_cast<uint64_t>(s.w) % 16 == 0;
    n_elems = static_cast<int>(a.k) - elem;
    left = place.run();
    place.next_run(left);
  }
  // Asks for the next unit, or for nothing behind the last.
  __device__ void feed(int lane, int warp, int most) {
    if (left == 0) next_run(lane, warp, most);
    if (left > 0) {
      if (n_elems > 0 && aligned) {
#pragma unroll
        for (int j = 0; j < 4; ++j) copy_once16(to + j * 512, row[j], policy);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) put_slowly16(to + j * 512, row[j], n_elems <= 0);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) row[j] += kChunkElems * 2;
      --left, n_elems -= kChunkElems;
      to += kPlainSlotBytes;
      if (++slot == n_stages) slot = 0, to = ring;
    }
    commit_copies();
  }
};

// A slot times elements 8 * eight … of x.
template <mica_dtype kType, int kRows>
__device__ inline void dot_plain(float (&sum)[4][kRows], const uint4* slot, const PlainImage& x,
                                 int eight, int n_rows) {
  uint4 w[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) w[j] = slot[j * kWarp];
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    if (kRows > 1 && m >= n_rows) break;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const float4 b = x.at[(2 * m + part) * x.n_eights + eight];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float4 v = unit_values<kType>(w[j], part);
        float& s = sum[j][m];
        s = fmaf(v.x, b.x, s), s = fmaf(v.y, b.y, s);
        s = fmaf(v.z, b.z, s), s = fmaf(v.w, b.w, s);
      }
    }
  }
}

// Where a warp leaves a group: the sums of each half's sixteen lanes. Lanes 0…3 of a half end up
// with its rows in the order 0, 2, 1, 3.
template <int kRows>
__device__ inline void put_plain_parts(const Parts<kRows>& parts, int turn, int slot,
                                       const float (&sum)[4][kRows], const float (&factor)[kRows],
                                       int lane) {
  const bool odd = lane % 2 != 0, high = lane / 2 % 2 != 0;
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    const float give0 = odd ? sum[0][m] : sum[2][m], give1 = odd ? sum[1][m] : sum[3][m];
    const float a0 = (odd ? sum[2][m] : sum[0][m]) + __shfl_xor_sync(0xffffffffu, give0, 1);
    const float a1 = (odd ? sum[3][m] : sum[1][m]) + __shfl_xor_sync(0xffffffffu, give1, 1);
    float s = (high ? a1 : a0) + __shfl_xor_sync(0xffffffffu, high ? a0 : a1, 2);
    s += __shfl_xor_sync(0xffffffffu, s, 4);
    s += __shfl_xor_sync(0xffffffffu, s, 8);
    const int row = lane / 16 * 4 + (odd ? 2 : 0) + (high ? 1 : 0);
    if (lane % 16 < 4) parts.part(turn, slot, m, row) = s * factor[m];
  }
}

template <int kRows, class Args>
__global__ void __launch_bounds__(kStreamThreads, 1) fused_plain(const __grid_constant__ Args a) {
  extern __shared__ __align__(128) uint4 shared[];
  __shared__ RowScratch<kRows> scratch;
  constexpr int kMost = kRoundGroups<kRows>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int chunks = static_cast<int>(a.chunks), n_stages = static_cast<int>(a.n_stages);
  const PlainImage image = {reinterpret_cast<float4*>(shared), chunks * 16};
  uint8_t* const parts_at = reinterpret_cast<uint8_t*>(shared) + chunks * 512 * kRows;
  const Parts<kRows> parts = {reinterpret_cast<float*>(parts_at)};

  StreamPlace here = place_of_block(a, chunks);
  here.enter(warp, kMost);
  const uint8_t* const ring =
      parts_at + Parts<kRows>::kBytes + warp * n_stages * kPlainSlotBytes + lane * 16;
  PlainFeed<Args> ahead(a, here, ring, n_stages);
  const int n_early = static_cast<int>(a.n_early);
  for (int i = 0; i < n_early; ++i) ahead.feed(lane, warp, kMost);
  prefetch_norm(a);
  wait_for_inputs();

  const int n_rows = rows_alive(a);
  auto early = early_of<kRows>(a, here);
  float factor[kRows];
  prepare_rows<kRows>(a, image, n_rows, scratch, factor, [&] {
    for (int i = n_early; i < n_stages; ++i) ahead.feed(lane, warp, kMost);
  });
  start_next();
  early.settle(a);
  if (n_rows == 0) return wait_copies<0>();

  const uint8_t* slot_at = ring;
  int slot = 0, turn = 0;
  for (; here.more(); here.round += kMost, turn ^= 1) {
    here.enter(warp, kMost);
    while (here.unit < here.end) {
      const int n = here.run();
      const FlatGroup at = flat_group(a, here.first + here.round + here.group);
      const bool half = a.segment[at.segment].type == MICA_F16;
      int eight = here.step * 16 + lane % 16;
      float sum[4][kRows] = {};
      for (int i = 0; i < n; ++i, eight += 16) {
        wait_oldest(n_stages);
        const uint4* from = reinterpret_cast<const uint4*>(slot_at);
        if (half)
          dot_plain<MICA_F16, kRows>(sum, from, image, eight, n_rows);
        else
          dot_plain<MICA_BF16, kRows>(sum, from, image, eight, n_rows);
        ahead.feed(lane, warp, kMost);
        slot_at += kPlainSlotBytes;
        if (++slot == n_stages) slot = 0, slot_at = ring;
      }
      put_plain_parts<kRows>(parts, turn, here.group + warp, sum, factor, lane);
      here.next_run(n);
    }
    __syncthreads();
    end_round<kRows>(a, parts, turn, here, n_rows, early);
  }
}

// --- Launching -----------------------------------------------------------------------------------

// The grid and the ring: a.together is set, and all segments are there.
template <int kRows, class Args>
mica_status launch_rows(Recorder& r, Args& a) {
  const uint64_t fixed = image_bytes(a.plain != 0, a.k, kRows) + Parts<kRows>::kBytes;
  const Segment& last = a.segment[a.n_segments - 1];
  const auto groups = static_cast<uint32_t>(last.first + div_up(last.n, kGroupRows));
  // H200: of three stages of packed units and four of plain ones, more asked for before x only make
  // x wait (8B: 2 to 5 % slower), and more in all gain nothing.
  const uint64_t stage = uint64_t{kStreamWarps} * a.slot_bytes;
  const RingPlan ring = plan_ring(*r.device, fixed, stage, (a.plain != 0 ? 4 : 3) * stage);
  a.n_stages = ring.n_stages;
  a.n_early = a.plain != 0 ? 2 : 1;
  const uint32_t steps = groups / a.together, n_sms = static_cast<uint32_t>(r.device->n_sms);
  const uint32_t blocks = steps < n_sms ? steps : n_sms;
  a.groups_each = steps / blocks, a.extra = steps % blocks;
  return launch(r, a.plain != 0 ? fused_plain<kRows, Args> : fused<kRows, Args>, dim3(blocks),
                dim3(kStreamThreads), ring.bytes, a);
}

// a.m is 1 to kFusedRows.
template <class Args>
mica_status launch_args(Recorder& r, Args& a) {
  if (a.m == 1) return launch_rows<1>(r, a);
  if (a.m == 2) return launch_rows<2>(r, a);
  return launch_rows<4>(r, a);
}

}  // namespace mica::cuda
