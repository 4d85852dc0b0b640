// How a quantized weight lies on the device.
//
// Rows are taken eight at a time (a group) and 128 elements of K at a time (a chunk): four blocks
// of 32 elements. A chunk of a group is 32 cells in the order [block 0…3][row 0…7], and its parts
// are
//   quants  [unit][cell] 16 bytes: word w holds elements 4w…4w+3 of the block in its low and 16+4w…
//           in its high nibbles; Q8_0 has two units, elements 0…15 and 16…31
//   high    [cell] the bits above the nibbles, ordered as quant/types.h says
//   scale   [cell] a block's scale, and minimum
// behind every second chunk, of types with blocks of 256:
//   super   [row] such a block's scale, and minimum
// Chunks follow one another, then groups, then slices (dims 2 and 3, each with groups of its own).
// So a warp reads whole chunks without gaps, a lane a block of a row (matvec); the same word of a
// block lies 16 bytes from that of the next row (fragments of mma.sync); a piece of K of a group is
// one run of bytes (bulk copies); few rows make enough work for a warp. K is padded to whole chunks
// and N to whole groups; the padding is zero, and so is its value.
#pragma once
#include "backends/cuda/encode.cuh"
#include "core/base/checked.h"

namespace mica::cuda {

constexpr uint32_t kLayoutPlain = 0;
constexpr uint32_t kLayoutRows8 = 1;

constexpr int64_t kGroupRows = 8;
constexpr int64_t kChunkBlocks = 4;
constexpr int64_t kChunkElems = 128;
constexpr int64_t kChunkCells = 32;

// Bytes of a block of 32 in each part; `super`: of a block of 256.
struct PartSizes {
  uint32_t units;  // of 16 bytes; 0: the type is not packed
  uint32_t high, scale, super;

  MICA_HD constexpr uint32_t high_at() const { return 512 * units; }  // in a chunk
  MICA_HD constexpr uint32_t scale_at() const { return high_at() + 32 * high; }
  MICA_HD constexpr uint32_t chunk_bytes() const { return scale_at() + 32 * scale; }
  MICA_HD constexpr uint32_t super_bytes() const { return 8 * super; }
  MICA_HD constexpr uint32_t pair_bytes() const { return 2 * chunk_bytes() + super_bytes(); }
};

struct Packed {
  int64_t chunks;  // of a row
  int64_t groups;  // of a slice
  int64_t group_bytes;
  uint64_t bytes;  // of all
};

// False: the size does not fit in 63 bits.
inline bool packed_of(const PartSizes& s, int64_t k, int64_t n, int64_t slices, Packed& out) {
  out.chunks = k / kChunkElems + (k % kChunkElems != 0 ? 1 : 0);
  out.groups = n / kGroupRows + (n % kGroupRows != 0 ? 1 : 0);
  const int64_t pairs = out.chunks / 2, single = out.chunks % 2 * s.chunk_bytes();
  int64_t bytes = 0;
  if (!checked_mul<int64_t>(pairs, s.pair_bytes(), bytes) ||
      !checked_add(bytes, single, out.group_bytes) ||
      !checked_mul(out.group_bytes, out.groups, bytes) || !checked_mul(bytes, slices, bytes))
    return false;
  out.bytes = static_cast<uint64_t>(bytes);
  return true;
}

// Offsets of a chunk and of a cell's parts. `group` counts over slices.
MICA_HD uint64_t chunk_at(const Packed& p, PartSizes s, int64_t group, int64_t chunk) {
  return static_cast<uint64_t>(group * p.group_bytes + chunk / 2 * s.pair_bytes() +
                               chunk % 2 * s.chunk_bytes());
}
MICA_HD uint64_t super_at(const Packed& p, PartSizes s, int64_t group, int64_t chunk) {
  return chunk_at(p, s, group, chunk / 2 * 2) + 2 * s.chunk_bytes();
}

}  // namespace mica::cuda
