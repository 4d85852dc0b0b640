// Many rows of x on sm_90a: tiles of 64 kGroups rows of x times kWidth rows of w by wgmma, both F16
// or both BF16, for kernels/matmul.cu.
//
// One thread of a block's first warpgroup copies boxes of 64 elements of K to a ring of stages in
// shared memory; kGroups others multiply, each 64 rows of x. A stage has two barriers: `full`
// counts its bytes, `empty` the warps that are done with it. The blocks of a cluster take
// neighbouring rows of x and the same rows of w: each copies a part of those to all of them, so a
// stage is empty when the warps of all blocks are done with it. Blocks live for several tiles, and
// the ring is filled ahead across tiles.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_lt.cuh"
#include "backends/cuda/kernels/matmul/wgmma.cuh"

namespace mica::cuda {

constexpr int kGroupTokens = 64;  // rows of x a warpgroup
constexpr int kWgmmaElems = 64;   // of K a stage: rows of 128 bytes, the widest swizzle
constexpr int kWgmmaRowBytes = kWgmmaElems * 2;
constexpr int kWarpgroup = 128;  // threads
// Three warpgroups start with 168 registers a thread, as many eights as 65536 / 384 holds. What the
// first drops the others take: 40 + 2 * 232 is 3 * 168, and to take more would wait for ever. Two
// warpgroups have 255 a thread, as many as there can be.
constexpr int kCopyRegisters = 40, kProductRegisters = 232;
constexpr uint32_t kAtomBytes = 1024;  // stages start at multiples of it

struct WgmmaArgs {
  CUtensorMap w, x;      // boxes of 64 elements of K: kWidth / kCluster rows of w, 64 kGroups of x
  float* out;            // row 0 of w, row 0 of x
  const float* factors;  // of rows of x: what their products are multiplied by
  uint64_t live;         // as in MatmulArgs, of m
  int64_t s_out;         // elements between rows of x
  int32_t n, m;          // rows of w and x
  int32_t steps;         // of 64 elements of K
};

template <int kGroups, int kWidth>
struct WgmmaStage {
  static constexpr int kTokens = kGroups * kGroupTokens, kThreads = (1 + kGroups) * kWarpgroup;
  static constexpr uint32_t kX = kTokens * kWgmmaRowBytes, kW = kWidth * kWgmmaRowBytes;
  static constexpr uint32_t kBytes = kX + kW;
  // Of 227 KiB; a KiB for aligning, and barriers.
  static constexpr uint32_t kFit = 225 * 1024 / kBytes;
  static constexpr uint32_t kStages = kFit < 12 ? kFit : 12;
  static constexpr uint32_t kShared = kStages * kBytes + kAtomBytes;
};

#if MICA_HAS_WGMMA

// Where a block is in its ring: a stage, and the parity of the phase that it is in.
template <class S>
struct RingPlace {
  SharedAddress ring, barriers;
  uint32_t i = 0, parity = 0;
  __device__ SharedAddress stage() const { return ring + i * S::kBytes; }
  __device__ SharedAddress full() const { return barriers + 16 * i; }
  __device__ SharedAddress empty() const { return full() + 8; }
  __device__ void advance() {
    if (++i == S::kStages) i = 0, parity ^= 1;
  }
};

// The tiles of a cluster, one after the other: those of a row of tiles of w before the next row's,
// so that w is read once. Tiles without a live row are left out, by all blocks of the cluster.
struct WgmmaWalk {
  int across, all, step;            // tiles of a cluster along x, of all; between one's tiles
  int i, live, rank, tokens, rows;  // tokens: of a block's tile; rows: of x a cluster's tile
  __device__ WgmmaWalk(const WgmmaArgs& p, int n_tokens, int width, int cluster, int64_t n_live) {
    tokens = n_tokens, rows = tokens * cluster;
    across = (p.m + rows - 1) / rows;
    all = across * ((p.n + width - 1) / width);
    step = static_cast<int>(gridDim.x) / cluster;
    live = static_cast<int>(n_live < p.m ? n_live : p.m), rank = static_cast<int>(cluster_rank());
    i = static_cast<int>(blockIdx.x) / cluster - step;
  }
  __device__ bool next() {
    do i += step;
    while (i < all && i % across * rows >= live);
    return i < all;
  }
  __device__ int token() const { return i % across * rows + rank * tokens; }
  __device__ int row(int width) const { return i / across * width; }
};

// One thread of a block.
template <class S, int kWidth, int kCluster>
__device__ inline void wgmma_copy(const WgmmaArgs& p, RingPlace<S> at, WgmmaWalk walk) {
  constexpr int kPart = kWidth / kCluster;  // rows of w that this block copies
  static_assert(kPart % 8 == 0, "whole swizzle atoms");
  const int part = walk.rank * kPart;
  while (walk.next()) {
    const int token = walk.token(), row = walk.row(kWidth) + part;
    for (int step = 0; step < p.steps; ++step, at.advance()) {
      barrier_wait(at.empty(), at.parity ^ 1);  // at first: the phase before the first is complete
      barrier_expect(at.full(), S::kBytes);
      const SharedAddress x = at.stage(), w = x + S::kX + part * kWgmmaRowBytes;
      copy_box(x, p.x, step * kWgmmaElems, token, at.full());
      if constexpr (kCluster == 1)
        copy_box(w, p.w, step * kWgmmaElems, row, at.full());
      else
        copy_box_to_all(w, p.w, step * kWgmmaElems, row, at.full(), (1 << kCluster) - 1);
    }
  }
  // Arrivals from other blocks find this one's barriers only while it lives: it waits for all.
  for (uint32_t i = 0; i < S::kStages; ++i, at.advance()) barrier_wait(at.empty(), at.parity ^ 1);
}

// A warp is done with a stage: every block that copies into it is told.
template <int kCluster>
__device__ inline void wgmma_release(SharedAddress empty, int lane) {
  if (lane < kCluster) barrier_arrive(empty, static_cast<uint32_t>(lane));
}

// The row of x of a tile whose products a thread has in its half `half` of them; `token` is the
// warpgroup's first.
__device__ inline int wgmma_token(int token, int half) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x % kWarpgroup / kWarp;
  return token + 16 * warp + lane / 4 + 8 * half;
}

// A warpgroup's 64 rows of a tile, the first of them `token`; live rows only.
template <int kWidth>
__device__ inline void wgmma_store(const WgmmaArgs& p, const float (&c)[kWidth / 2],
                                   const float (&factor)[2], int token, int row, int live) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int m = wgmma_token(token, half);
    if (m >= live) continue;
    float* out = p.out + m * p.s_out + row;
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
      const int n = 8 * j + lane % 4 * 2;
      if (row + n < p.n)  // a multiple of 4, so both are there or none is
        *reinterpret_cast<float2*>(out + n) =
            make_float2(c[4 * j + 2 * half] * factor[half], c[4 * j + 2 * half + 1] * factor[half]);
    }
  }
}

template <class S, int kWidth, int kCluster, bool kBf16>
__device__ inline void wgmma_multiply(const WgmmaArgs& p, RingPlace<S> at, WgmmaWalk walk) {
  const int half = static_cast<int>(threadIdx.x) / kWarpgroup - 1, lane = threadIdx.x % kWarp;
  while (walk.next()) {
    const int token = walk.token() + half * kGroupTokens;
    float factor[2];  // asked for long before it is used
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int m = wgmma_token(token, i);
      factor[i] = kBf16 || m >= walk.live ? 1.0f : p.factors[m];
    }
    float c[kWidth / 2];
    SharedAddress before = 0;  // barrier of the stage before
#pragma unroll 1
    for (int step = 0; step < p.steps; ++step, at.advance()) {
      barrier_wait(at.full(), at.parity);
      const uint64_t x = operand_at(at.stage() + half * kGroupTokens * kWgmmaRowBytes);
      const uint64_t w = operand_at(at.stage() + S::kX);
      products_begin();
#pragma unroll
      for (int k = 0; k < kWgmmaElems / 16; ++k)  // 16 elements of K are 32 bytes
        product<kWidth, kBf16>(c, x + 2 * k, w + 2 * k, step + k);
      products_commit();
      products_wait<1>();
      if (step != 0) wgmma_release<kCluster>(before, lane);
      before = at.empty();
    }
    products_wait<0>();
    products_settle(c);
    wgmma_release<kCluster>(before, lane);
    wgmma_store<kWidth>(p, c, factor, token, walk.row(kWidth), walk.live);
  }
}

#endif  // MICA_HAS_WGMMA

// In clusters of kCluster blocks along x; any number of clusters.
template <int kGroups, int kWidth, int kCluster, bool kBf16>
__global__ void __launch_bounds__((WgmmaStage<kGroups, kWidth>::kThreads), 1)
    wgmma(const __grid_constant__ WgmmaArgs p) {
#if MICA_HAS_WGMMA
  extern __shared__ uint4 shared[];
  using S = WgmmaStage<kGroups, kWidth>;
  __shared__ uint64_t barriers[2 * S::kStages];  // for wgmma_is_there() too
  RingPlace<S> at = {(shared_at(shared) + kAtomBytes - 1) / kAtomBytes * kAtomBytes,
                     shared_at(barriers)};
  if (threadIdx.x == 0) {
    prefetch_map(p.w), prefetch_map(p.x);
    for (uint32_t i = 0; i < S::kStages; ++i, at.advance()) {
      barrier_init(at.full());
      barrier_init(at.empty(), kGroups * (kWarpgroup / kWarp) * kCluster);
    }
    at.parity = 0;
    fence_barriers();
  }
  __syncwarp();
  if constexpr (kCluster > 1)
    cluster_barrier();  // all blocks' barriers are there
  else
    __syncthreads();
  wait_for_inputs();
  start_next();
  const WgmmaWalk walk(p, S::kTokens, kWidth, kCluster, live_count(p.live, p.m));
  if (threadIdx.x < kWarpgroup) {
    if constexpr (kGroups == 2) drop_registers<kCopyRegisters>();
    if (threadIdx.x == 0) wgmma_copy<S, kWidth, kCluster>(p, at, walk);
  } else {
    if constexpr (kGroups == 2) take_registers<kProductRegisters>();
    wgmma_multiply<S, kWidth, kCluster, kBf16>(p, at, walk);
  }
#endif
}

// --- Launching -----------------------------------------------------------------------------------

// cuTensorMapEncodeTiled of the driver.
using EncodeMap = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                               const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                               const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                               CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// Boxes of 64 elements of `box` rows of a matrix of `rows` rows of k elements, `stride` bytes apart
// (a multiple of 16); the address is one of 16.
inline bool encode_map(EncodeMap encode, CUtensorMap& map, const void* at, bool bf16, int64_t k,
                       int64_t rows, int64_t stride, uint32_t box) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(k), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride)};
  const cuuint32_t boxes[2] = {kWgmmaElems, box}, every[2] = {1, 1};
  return encode(&map, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
                const_cast<void*>(at), sizes, strides, boxes, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// A size of tiles, and its kernels.
struct WgmmaTile {
  int groups, width, cluster;  // rows of x / 64, rows of w, blocks
  // What a round of such tiles takes with K = 4096 on an H200, in microseconds: of large products,
  // where power and memory limit it.
  double cost;
  uint32_t shared;                      // bytes
  void (*kernels[2])(const WgmmaArgs);  // F16, BF16

  int64_t clusters(int64_t n, int64_t m) const {
    return div_up(m, int64_t{groups} * kGroupTokens * cluster) * div_up(n, width);
  }
  // A block a multiprocessor at a time, and at least one cluster.
  int64_t at_once(int n_sms) const { return n_sms < cluster ? 1 : n_sms / cluster; }
  double time(int64_t n, int64_t m, int n_sms) const {
    return cost * static_cast<double>(div_up(clusters(n, m), at_once(n_sms)));
  }
};
template <int kGroups, int kWidth, int kCluster>
inline WgmmaTile wgmma_tile(double cost) {
  return {kGroups,
          kWidth,
          kCluster,
          cost,
          WgmmaStage<kGroups, kWidth>::kShared,
          {wgmma<kGroups, kWidth, kCluster, false>, wgmma<kGroups, kWidth, kCluster, true>}};
}
// The quickest.
inline WgmmaTile choose_wgmma(int64_t n, int64_t m, int n_sms) {
  const WgmmaTile tiles[] = {wgmma_tile<2, 256, 2>(46), wgmma_tile<2, 224, 2>(42.5),
                             wgmma_tile<2, 128, 1>(26), wgmma_tile<1, 128, 2>(18)};
  const WgmmaTile* best = tiles;
  for (const WgmmaTile& tile : tiles)
    if (tile.time(n, m, n_sms) < best->time(n, m, n_sms)) best = &tile;
  return *best;
}

inline const char* wgmma_supports(const Call& c, const MatmulArgs& a, const WeightType& type) {
  if (device_of(c).cc != 90) return "wgmma is of compute capability 9.0 only";
  if (device_of(c).encode_map == nullptr) return "the driver or this build does not know wgmma";
  return halves_support(a, type);
}

// In the workspace are x and, of packed types, a part of w in F16, where plan_lt() says.
inline mica_status record_wgmma_product(Recorder& r, const MatmulArgs& a, const WeightType& type) {
  const LtPlan plan = plan_lt(a);
  const bool bf16 = a.w_type == MICA_BF16;
  const WgmmaTile tile = choose_wgmma(plan.rows, a.m, r.device->n_sms);
  const auto kernel = tile.kernels[bf16 ? 1 : 0];
  const auto encode = reinterpret_cast<EncodeMap>(r.device->encode_map);
  auto* workspace = static_cast<uint8_t*>(a.workspace);
  auto* factors = reinterpret_cast<float*>(workspace + plan.factors_at);
  PrepareArgs prepare = {a, workspace, nullptr, factors, plan.chunks, a.m, 0, 1, nullptr};
  prepare.bf16 = bf16 ? 1 : 0;
  if (const mica_status status = launch_prepare(r, prepare); status != MICA_OK) return status;
  auto* half_w = reinterpret_cast<uint16_t*>(workspace + plan.w_at);
  for (int64_t first = 0; first < a.n; first += plan.rows) {
    const int64_t rows = first + plan.rows < a.n ? plan.rows : a.n - first;
    if (a.packed) {
      const HalveArgs halve = {a.w, half_w, a.layout, a.k, first, rows};
      if (const mica_status status = type.halve(r, halve); status != MICA_OK) return status;
    }
    WgmmaArgs args = {};
    const void* w = a.packed ? static_cast<const void*>(half_w) : a.w;
    if (!encode_map(encode, args.w, w, bf16, a.k, rows, a.packed ? a.k * 2 : a.w_stride[0],
                    static_cast<uint32_t>(tile.width / tile.cluster)) ||
        !encode_map(encode, args.x, workspace, bf16, a.k, a.m, plan.chunks * kChunkElems * 2,
                    static_cast<uint32_t>(tile.groups * kGroupTokens)))
      return MICA_INTERNAL;
    args.out = a.out + first;
    args.factors = factors;
    args.live = a.live;
    args.s_out = a.n;
    args.n = static_cast<int32_t>(rows), args.m = static_cast<int32_t>(a.m);
    args.steps = static_cast<int32_t>(div_up(a.k, kWgmmaElems));
    const int64_t clusters = tile.clusters(rows, a.m), most = tile.at_once(r.device->n_sms);
    const dim3 grid(static_cast<uint32_t>((clusters < most ? clusters : most) * tile.cluster));
    const dim3 block(static_cast<uint32_t>((1 + tile.groups) * kWarpgroup));
    if (const mica_status status = launch_clusters(r, kernel, grid, block, tile.shared,
                                                   static_cast<uint32_t>(tile.cluster), args);
        status != MICA_OK)
      return status;
  }
  return MICA_OK;
}

}  // namespace mica::cuda
