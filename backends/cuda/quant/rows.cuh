// Device code for rows of a weight of one type: packed and unpacked, random ones, and get_rows.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_naive.cuh"

namespace mica::cuda {

constexpr int kRowThreads = 256;

inline dim3 row_blocks(const Recorder& r, int64_t n_threads) {
  const int64_t blocks = div_up(n_threads, kRowThreads), most = int64_t{r.device->n_sms} * 64;
  return dim3(static_cast<uint32_t>(blocks < 1 ? 1 : blocks < most ? blocks : most));
}
// Numbers of this thread's items: for (i = first_item(); i < n; i += item_step()).
__device__ inline int64_t first_item() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline int64_t item_step() { return int64_t{gridDim.x} * blockDim.x; }

// --- Packing: a block of 32 a thread, and back a GGUF block a thread
// ------------------------------

template <class T>
__global__ void __launch_bounds__(kRowThreads) pack_rows(const PackArgs a) {
  wait_for_inputs();
  constexpr int kPieces = T::kBlock / 32;
  const int64_t pieces = a.k / 32, row_bytes = a.k / T::kBlock * T::kBytes;
  for (int64_t i = first_item(); i < a.n * pieces; i += item_step()) {
    const int64_t r = i / pieces, piece = i % pieces;
    const uint8_t* block = a.rows + r * row_bytes + piece / kPieces * T::kBytes;
    const CellPlace at = place_of<T>(a.layout, a.n_per_slice, a.first + r, piece);
    write_cell<T>(a.weight + at.chunk, a.weight + at.super, at.cell,
                  to_piece<T>(block, static_cast<int>(piece % kPieces)));
  }
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) unpack_rows(const PackArgs a) {
  wait_for_inputs();
  const int64_t blocks = a.k / T::kBlock;
  for (int64_t i = first_item(); i < a.n * blocks; i += item_step())
    unpack_block<T>(a.weight, a.layout, a.n_per_slice, a.first + i / blocks, i % blocks,
                    a.rows + i * T::kBytes);
}

// --- Random weights ------------------------------------------------------------------------------

// A number from a counter: the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
MICA_HD uint64_t mix(uint64_t seed, uint64_t counter) {
  uint64_t z = seed + (counter + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}
constexpr float kRandomDeviation = 0.02f;

// Quants are uniform over all their values; scales make the deviation about the wanted one.
template <class T>
MICA_HD Piece<T> random_piece(uint64_t seed, uint64_t cell) {
  Piece<T> p = {};
  constexpr bool kBytes = T::kParts.units == 2, kSupers = T::kParts.super != 0;
  constexpr int kBits = kBytes ? 8 : T::kParts.high == 8 ? 6 : T::kParts.high == 4 ? 5 : 4;
  constexpr float kLevels = static_cast<float>(1 << kBits);
  for (uint32_t i = 0; i < 2 * T::kParts.units; ++i) {
    const uint64_t bits = mix(seed, cell * 8 + i);
    p.q[2 * i] = static_cast<uint32_t>(bits), p.q[2 * i + 1] = static_cast<uint32_t>(bits >> 32);
  }
  const uint64_t high = mix(seed, cell * 8 + 4), other = mix(seed, cell * 8 + 5);
  if (T::kParts.high >= 4) p.h[0] = static_cast<uint32_t>(high);
  if (T::kParts.high == 8) p.h[1] = static_cast<uint32_t>(high >> 32);
  // Of n equally likely integers the deviation is n / sqrt(12). Sub-scales have a mean of `sub`.
  constexpr float kSub = T::kHalves ? 96 : kSupers ? 48 : 1;
  constexpr float kStep = kRandomDeviation * 3.4641f / kLevels / kSub;
  const uint32_t d = f32_to_f16(kStep), m = f32_to_f16(kStep * kLevels / 2);
  if (T::kHalves) {
    p.d = d;
    p.s = static_cast<uint32_t>(other & 0x3f3f) | 0x4040u;  // 64…127 each
  } else if (kSupers) {
    p.d = d | m << 16;
    const uint32_t scale = static_cast<uint32_t>(other & 31) | 32u;  // 32…63, the minimum alike
    p.s = scale | scale << 8;
  } else {
    p.s = T::kMin ? d | (m ^ 0x8000u) << 16 : d;
  }
  return p;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) random_cells(const RandomArgs a) {
  wait_for_inputs();
  const int64_t pieces = a.k / 32;
  for (int64_t i = first_item(); i < a.n * pieces; i += item_step()) {
    const CellPlace at = place_of<T>(a.layout, a.n_per_slice, i / pieces, i % pieces);
    write_cell<T>(a.weight + at.chunk, a.weight + at.super, at.cell,
                  random_piece<T>(a.seed, static_cast<uint64_t>(i)));
  }
}

template <mica_dtype kType>
__global__ void __launch_bounds__(kRowThreads) random_elements(const RandomArgs a) {
  wait_for_inputs();
  for (int64_t i = first_item(); i < a.n; i += item_step()) {
    const uint32_t bits = static_cast<uint32_t>(mix(a.seed, static_cast<uint64_t>(i)) >> 40);
    const float v = (static_cast<float>(bits) * 0x1p-23f - 1.0f) * 1.7320508f * kRandomDeviation;
    if (kType == MICA_F32) reinterpret_cast<float*>(a.weight)[i] = v;
    if (kType == MICA_F16) reinterpret_cast<uint16_t*>(a.weight)[i] = f32_to_f16(v);
    if (kType == MICA_BF16) reinterpret_cast<uint16_t*>(a.weight)[i] = f32_to_bf16(v);
    if (kType == MICA_I32) reinterpret_cast<int32_t*>(a.weight)[i] = 0;
    if (kType == MICA_I64) reinterpret_cast<int64_t*>(a.weight)[i] = 0;
  }
}

// --- get_rows: a warp decodes 32 elements of a row at a time
// ---------------------------------------

constexpr int kGetRowsElems = 1024;  // of a row a block

template <class T>
__device__ inline float table_value(const GetRowsArgs& a, int64_t id, int64_t i) {
  const uint8_t* row = a.table + id * a.stride;
  if constexpr (kIsPlain<T>) {
    if (T::kType == MICA_I32) return static_cast<float>(reinterpret_cast<const int32_t*>(row)[i]);
    if (T::kType == MICA_I64) return static_cast<float>(reinterpret_cast<const int64_t*>(row)[i]);
    if (T::kType == MICA_F32) return reinterpret_cast<const float*>(row)[i];
    const uint16_t bits = reinterpret_cast<const uint16_t*>(row)[i];
    return T::kType == MICA_F16 ? f16_to_f32(bits) : bf16_to_f32(bits);
  } else {
    const Piece<T> p = piece_of<T>(a.table, a.packed, a.layout, a.n_rows, id, row, i / 32);
    return value_of<T>(p, static_cast<int>(i % 32));
  }
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) gather_rows(const GetRowsArgs a) {
  wait_for_inputs();
  start_next();
  const int64_t i_id = blockIdx.x;
  if (i_id >= live_count(a.live_ids, a.n_ids)) return;
  const int64_t id = a.ids[i_id];
  const bool inside = id >= 0 && id < live_count(a.live_rows, a.n_rows);
  const int64_t first = int64_t{blockIdx.y} * kGetRowsElems;
  const int64_t end = first + kGetRowsElems < a.k ? first + kGetRowsElems : a.k;
  for (int64_t i = first + threadIdx.x; i < end; i += kRowThreads)
    a.out[i_id * a.k + i] = inside ? table_value<T>(a, id, i) : 0.0f;
}

template <class T>
mica_status get_rows_any(Recorder& r, const GetRowsArgs& a) {
  const dim3 grid(static_cast<uint32_t>(a.n_ids),
                  static_cast<uint32_t>(div_up(a.k, kGetRowsElems)));
  return launch(r, gather_rows<T>, grid, dim3(kRowThreads), 0, a);
}
template <class T>
mica_status pack_any(Recorder& r, const PackArgs& a) {
  return launch(r, pack_rows<T>, row_blocks(r, a.n * (a.k / 32)), dim3(kRowThreads), 0, a);
}
template <class T>
mica_status unpack_any(Recorder& r, const PackArgs& a) {
  return launch(r, unpack_rows<T>, row_blocks(r, a.n * (a.k / T::kBlock)), dim3(kRowThreads), 0, a);
}
template <class T>
mica_status random_any(Recorder& r, const RandomArgs& a) {
  if constexpr (kIsPlain<T>)
    return launch(r, random_elements<T::kType>, row_blocks(r, a.n), dim3(kRowThreads), 0, a);
  else
    return launch(r, random_cells<T>, row_blocks(r, a.n * (a.k / 32)), dim3(kRowThreads), 0, a);
}

}  // namespace mica::cuda
