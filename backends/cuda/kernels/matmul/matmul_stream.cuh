// Few rows of x times a packed weight on sm_90: weights stream through shared memory by bulk
// copies.
//
// Every block owns consecutive groups of eight rows of w. It takes them in rounds of up to
// kRoundGroups; a round's units (256 elements of a group's K, one run of bytes) are
// dealt evenly to the block's warps in their order. A warp has a ring of its own in shared memory,
// filled by one of its lanes and read by all: nothing but its own barrier makes it wait, and the
// ring is full before x is there. Where a warp leaves a group it puts its part of the eight sums
// down; after the round the parts are added in the order of the warps, so results do not vary.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_q8.cuh"

namespace mica::cuda {

constexpr int kStreamWarps = 16;
constexpr int kStreamThreads = kStreamWarps * kWarp;
constexpr int kUnitChunks = 2;
constexpr int kMaxStreamStages = 8;

struct StreamArgs {
  MatmulArgs a;
  const uint8_t* q8;     // x rounded already: an image of Q8Rows a slice; nullptr: blocks round it
  uint32_t groups_each;  // of a block, and one more of the first `extra` blocks
  uint32_t extra;
  uint32_t n_stages;
};

// Bytes of a unit, and its place in a warp's ring.
template <class T>
constexpr uint32_t kUnitBytes = T::kParts.pair_bytes();

template <int kRows>
constexpr int kRoundGroups = kRows <= 2   ? 32
                             : kRows == 4 ? 16
                                          : 8;

// Parts of sums: of group g of a round the part of warp w is at g + w. Two turns.
template <int kRows>
struct Parts {
  static constexpr int kSlots = kRoundGroups<kRows> + kStreamWarps;
  static constexpr uint32_t kBytes = 2 * kSlots * kRows * kGroupRows * 4;
  float* at;
  __device__ float& part(int turn, int slot, int m, int row) const {
    return at[((turn * kSlots + slot) * kRows + m) * kGroupRows + row];
  }
};

// A block's place in its rounds, and a warp's in its units. They come in runs: those of one group.
struct StreamPlace {
  int first, n_groups;  // the block's
  int units;            // of a group
  int round;            // first group of the round, counted from `first`
  int unit, end;        // of the warp in the round
  int group, step;      // of the unit: group in the round, unit in the group

  __device__ int round_groups(int most) const {
    const int left = n_groups - round;
    return left < most ? left : most;
  }
  __device__ bool more() const { return round < n_groups; }
  // The first unit of a warp in a round of `all` units.
  static __device__ int first_unit(int64_t all, int warp) {
    return static_cast<int>(all * warp / kStreamWarps);
  }
  // The warp's part of the round at `round`.
  __device__ void enter(int warp, int most) {
    const int all = round_groups(most) * units;
    unit = first_unit(all, warp), end = first_unit(all, warp + 1);
    group = unit / units, step = unit % units;
  }
  __device__ int run() const {
    const int in_group = units - step, in_round = end - unit;
    return in_group < in_round ? in_group : in_round;
  }
  __device__ void next_run(int n) { unit += n, step = 0, ++group; }
};

// What fills a warp's ring; one lane's business. Source says where the units of a group are:
//   set(group): the flat group whose units follow; at(step): a unit's address;
//   unit_bytes(), chunk_bytes(): of a whole and of a half unit.
struct StreamFeed {
  StreamPlace place;
  const uint8_t* from;  // the next unit
  SharedAddress ring, barriers, slot_at, barrier_at;
  uint64_t policy;
  int slot, n_stages;
  int left;      // units of the run
  bool is_half;  // the run's last unit is one chunk

  __device__ void start(const void* ring_at, const void* barriers_at, int stages) {
    ring = slot_at = shared_at(ring_at);
    barriers = barrier_at = shared_at(barriers_at);
    policy = read_once_policy();
    slot = left = 0, n_stages = stages;
  }
  // To the next run, which `left` says the units of; false: there is none.
  template <class Source>
  __device__ bool next_run(Source& source, bool odd, int warp, int most) {
    while (place.unit >= place.end) {
      if (!place.more()) return false;
      place.round += most;
      if (!place.more()) return false;
      place.enter(warp, most);
    }
    source.set(place.first + place.round + place.group);
    from = source.at(place.step);
    left = place.run();
    is_half = odd && place.step + left == place.units;
    place.next_run(left);
    return true;
  }
  // Asks for the next unit; false: there is none.
  template <class Source>
  __device__ bool feed(Source& source, uint32_t slot_bytes, bool odd, int warp, int most) {
    if (left == 0 && !next_run(source, odd, warp, most)) return false;
    const uint32_t bytes = --left == 0 && is_half ? source.chunk_bytes() : source.unit_bytes();
    barrier_expect(barrier_at, bytes);
    copy_bulk_once(slot_at, from, bytes, barrier_at, policy);
    from += bytes;
    slot_at += slot_bytes, barrier_at += 8;
    if (++slot == n_stages) slot = 0, slot_at = ring, barrier_at = barriers;
    return true;
  }
};

// The one weight of a matmul.
template <class T>
struct OneWeight {
  const uint8_t* w;  // the slice's first group
  int64_t group_bytes;
  const uint8_t* group;

  __device__ void set(int flat) { group = w + flat * group_bytes; }
  __device__ const uint8_t* at(int step) const { return group + step * kUnitBytes<T>; }
  __device__ static constexpr uint32_t unit_bytes() { return kUnitBytes<T>; }
  __device__ static constexpr uint32_t chunk_bytes() { return T::kParts.chunk_bytes(); }
};

// Reading a warp's ring, slot after slot.
struct StreamRing {
  const uint8_t *first, *unit;
  SharedAddress barriers, barrier;
  int slot, n_stages;
  uint32_t parity;

  __device__ StreamRing(const uint8_t* ring, const void* barriers_at, int stages)
      : first(ring), unit(ring), barriers(shared_at(barriers_at)), barrier(barriers), slot(0),
        n_stages(stages), parity(0) {}
  __device__ void wait() const { barrier_wait(barrier, parity); }
  __device__ void next(uint32_t slot_bytes) {
    unit += slot_bytes, barrier += 8;
    if (++slot == n_stages) slot = 0, parity ^= 1, unit = first, barrier = barriers;
  }
};

// A lane's cell of chunk i of a unit.
template <class T>
__device__ inline Piece<T> unit_piece(const uint8_t* unit, int i, int lane) {
  constexpr PartSizes s = T::kParts;
  Piece<T> p;
  const uint8_t* chunk = unit + i * s.chunk_bytes();
#pragma unroll
  for (uint32_t u = 0; u < s.units; ++u) {
    const uint4 q = reinterpret_cast<const uint4*>(chunk)[u * 32 + lane];
    p.q[4 * u] = q.x, p.q[4 * u + 1] = q.y, p.q[4 * u + 2] = q.z, p.q[4 * u + 3] = q.w;
  }
  const uint8_t* high = chunk + s.high_at();
  if constexpr (s.high == 4) p.h[0] = reinterpret_cast<const uint32_t*>(high)[lane];
  if constexpr (s.high == 8) {
    const uint2 v = reinterpret_cast<const uint2*>(high)[lane];
    p.h[0] = v.x, p.h[1] = v.y;
  }
  const uint8_t* scale = chunk + s.scale_at();
  if constexpr (s.scale == 4) p.s = reinterpret_cast<const uint32_t*>(scale)[lane];
  if constexpr (s.scale == 2) p.s = reinterpret_cast<const uint16_t*>(scale)[lane];
  const uint8_t* d = unit + 2 * s.chunk_bytes();
  if constexpr (s.super == 4) p.d = reinterpret_cast<const uint32_t*>(d)[lane % kGroupRows];
  if constexpr (s.super == 2) p.d = reinterpret_cast<const uint16_t*>(d)[lane % kGroupRows];
  return p;
}

template <class T, int kRows>
__device__ inline void dot_unit(float (&sum)[kRows], const uint8_t* unit, const Q8Block& x,
                                bool half, int n_rows, int lane) {
  const Piece<T> p0 = unit_piece<T>(unit, 0, lane);
  if (half) return dot_cell<T, kRows>(sum, p0, x, 0, n_rows);
  const Piece<T> p1 = unit_piece<T>(unit, 1, lane);
  dot_cell<T, kRows>(sum, p0, x, 0, n_rows);
  dot_cell<T, kRows>(sum, p1, x, 4, n_rows);
}

// Where a warp leaves a group: its parts of the eight sums of every row.
template <int kRows>
__device__ inline void put_parts(const Parts<kRows>& parts, int turn, int slot,
                                 const float (&sum)[kRows], int lane) {
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    float s = sum[m];
    s += __shfl_xor_sync(0xffffffffu, s, 8);
    s += __shfl_xor_sync(0xffffffffu, s, 16);
    if (lane < kGroupRows) parts.part(turn, slot, m, lane) = s;
  }
}

// The sum of a row of a round's group, from the parts of the warps that had units of the group.
template <int kRows>
__device__ inline float round_sum(const Parts<kRows>& parts, int turn, int n_groups, int units,
                                  int group, int row, int m) {
  const int all = n_groups * units;
  const int from = (kStreamWarps * (group * units + 1) - 1) / all;
  const int to = (kStreamWarps * (group * units + units) - 1) / all;
  float sum = 0;
  for (int w = from; w <= to; ++w)  // some between may have no unit at all
    if (StreamPlace::first_unit(all, w) < StreamPlace::first_unit(all, w + 1))
      sum += parts.part(turn, group + w, m, row);
  return sum;
}

// A ring's slots begin where lines of 128 bytes do, as what is copied to them does: else memory is
// asked for halves of lines (H200: 3.3 instead of 4.3 TB/s).
template <class T, int kRows>
__global__ void __launch_bounds__(kStreamThreads, 1) stream(const StreamArgs args) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint4 shared[];
  __shared__ uint64_t barriers[kStreamWarps][kMaxStreamStages];
  __shared__ uint64_t x_barrier;
  constexpr int kMost = kRoundGroups<kRows>;
  const MatmulArgs& a = args.a;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int chunks = static_cast<int>(a.layout.chunks), n_stages = static_cast<int>(args.n_stages);
  const int i_slice = blockIdx.y;
  const Slice slice = slice_of(a, i_slice);
  const Q8Rows q(shared, chunks, kRows);
  const uint32_t x_bytes = static_cast<uint32_t>(chunks) * 4 * kQ8BlockBytes * kRows;
  uint8_t* const parts_at = reinterpret_cast<uint8_t*>(shared) + x_bytes;
  const Parts<kRows> parts = {reinterpret_cast<float*>(parts_at)};

  const uint32_t block = blockIdx.x;
  StreamPlace here = {};
  here.first =
      static_cast<int>(block * args.groups_each + (block < args.extra ? block : args.extra));
  here.n_groups = static_cast<int>(args.groups_each + (block < args.extra ? 1 : 0));
  here.units = (chunks + kUnitChunks - 1) / kUnitChunks;
  here.enter(warp, kMost);
  const bool odd = chunks % 2 != 0;
  uint8_t* const ring_at = parts_at + Parts<kRows>::kBytes + warp * n_stages * kUnitBytes<T>;
  StreamFeed ahead;
  ahead.place = here;
  ahead.start(ring_at, barriers[warp], n_stages);
  OneWeight<T> source = {slice.w, a.layout.group_bytes, nullptr};
  int n_fed = 0;
  if (lane == 0) {
    for (int i = 0; i < n_stages; ++i) barrier_init(ahead.barriers + 8 * i);
    if (warp == 0) barrier_init(shared_at(&x_barrier));
    fence_barriers();
    while (n_fed < n_stages && ahead.feed(source, kUnitBytes<T>, odd, warp, kMost)) ++n_fed;
  }
  __syncwarp();
  wait_for_inputs();

  const int64_t live = live_rows(a, i_slice);
  const int n_rows = static_cast<int>(live < kRows ? live : kRows);
  if (n_rows == 0) {  // what is on its way must come before shared memory is given back
    for (int i = 0; i < n_fed; ++i) barrier_wait(ahead.barriers + 8 * i, 0);
    return;
  }
  if (args.q8 == nullptr) round_rows<kStreamThreads>(a, slice.x, n_rows, q);
  __syncthreads();
  start_next();
  if (args.q8 != nullptr) {
    const SharedAddress barrier = shared_at(&x_barrier);
    if (threadIdx.x == 0) {
      barrier_expect(barrier, x_bytes);
      copy_bulk(shared_at(shared), args.q8 + uint64_t{x_bytes} * i_slice, x_bytes, barrier);
    }
    barrier_wait(barrier, 0);
  }

  StreamRing ring(ring_at, barriers[warp], n_stages);
  int turn = 0;
  for (; here.more(); here.round += kMost, turn ^= 1) {
    here.enter(warp, kMost);
    while (here.unit < here.end) {
      const int n = here.run(), n_whole = odd && here.step + n == here.units ? n - 1 : n;
      Q8Block x(q, here.step * kUnitChunks * 4 + lane / 8);
      float sum[kRows] = {};
      for (int i = 0; i < n; ++i) {
        ring.wait();
        dot_unit<T, kRows>(sum, ring.unit, x, i >= n_whole, n_rows, lane);
        x.skip(kUnitChunks * 4);
        __syncwarp();
        if (lane == 0) ahead.feed(source, kUnitBytes<T>, odd, warp, kMost);
        ring.next(kUnitBytes<T>);
      }
      put_parts<kRows>(parts, turn, here.group + warp, sum, lane);
      here.next_run(n);
    }
    __syncthreads();
    const int first_row = (here.first + here.round) * static_cast<int>(kGroupRows);
    const int n_groups = here.round_groups(kMost);
    for (int i = threadIdx.x; i < n_groups * kGroupRows * n_rows; i += kStreamThreads) {
      const int row = i % kGroupRows, group = i / kGroupRows % n_groups;
      const int m = i / kGroupRows / n_groups;
      const int n = first_row + group * static_cast<int>(kGroupRows) + row;
      if (n < a.n)
        slice.out[m * a.n + n] = round_sum<kRows>(parts, turn, n_groups, here.units, group, row, m);
    }
  }
#endif
}

// --- Shared memory -------------------------------------------------------------------------------

struct RingPlan {
  uint32_t n_stages;
  uint64_t bytes;  // of a block: what is fixed, and the ring
};

// One block a multiprocessor. Copies that are under way beyond what keeps memory busy only make
// others wait longer, those of x among them (H200: 3 stages of 32 KB do better than 6).
constexpr uint64_t kEnoughRing = 108 * 1024;
inline RingPlan plan_ring(const DeviceInfo& device, uint64_t fixed, uint64_t stage,
                          uint64_t enough = kEnoughRing) {
  constexpr uint64_t kDeclared = 3072;  // at least what kernels declare themselves
  const uint64_t room = device.max_shared_bytes - kDeclared;
  uint64_t stages = fixed < room ? (room - fixed) / stage : 0;
  if (stages > enough / stage) stages = enough / stage;
  stages = stages < 2 ? 2 : stages > kMaxStreamStages ? kMaxStreamStages : stages;
  return {static_cast<uint32_t>(stages), shared_of_blocks(device, fixed + stages * stage, 1)};
}

// --- Rounding x ahead ----------------------------------------------------------------------------

struct RoundArgs {
  MatmulArgs a;
  uint8_t* q8;
  int64_t chunks;
  int32_t n_rows;  // of an image
};
mica_status launch_round(Recorder& r, const RoundArgs& args);  // kernels/matmul.cu

// Rows that a kernel is made for.
inline int64_t stream_rows(int64_t m) { return m <= 2 ? m : m <= 4 ? 4 : 8; }
// Rounding two rows in every block costs less than a kernel of its own.
inline bool round_ahead(int64_t m) { return m > 2; }
inline uint64_t q8_bytes(const MatmulArgs& a) {
  return uint64_t(div_up(a.k, kChunkElems)) * 4 * kQ8BlockBytes * uint64_t(stream_rows(a.m));
}
template <class T, int kRows>
mica_status launch_stream(Recorder& r, const MatmulArgs& a) {
  StreamArgs args = {a, nullptr, 0, 0, 0};
  const auto groups = static_cast<uint32_t>(a.layout.groups);
  const auto n_sms = static_cast<uint32_t>(r.device->n_sms);
  const uint32_t blocks = groups < n_sms ? groups : n_sms;
  args.groups_each = groups / blocks, args.extra = groups % blocks;
  if (round_ahead(a.m)) {
    args.q8 = static_cast<const uint8_t*>(a.workspace);
    const RoundArgs round = {a, static_cast<uint8_t*>(a.workspace), a.layout.chunks, kRows};
    if (const mica_status status = launch_round(r, round); status != MICA_OK) return status;
  }
  const RingPlan ring = plan_ring(*r.device, q8_bytes(a) + Parts<kRows>::kBytes,
                                  uint64_t{kStreamWarps} * kUnitBytes<T>);
  args.n_stages = ring.n_stages;
  return launch(r, stream<T, kRows>, dim3(blocks, static_cast<uint32_t>(a.b2 * a.b3)),
                dim3(kStreamThreads), ring.bytes, args);
}

}  // namespace mica::cuda
