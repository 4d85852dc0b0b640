// The bits of quantized blocks in planes: quant/<type>.glsl says what each holds.
#include <cstring>

#include "backends/vulkan/layout.h"
#include "core/base/checked.h"
#include "core/base/dtype.h"
#include "ops/dtypes/k_scales.h"
#include "ops/dtypes/q4_0.h"
#include "ops/dtypes/q4_1.h"
#include "ops/dtypes/q4_k.h"
#include "ops/dtypes/q5_0.h"
#include "ops/dtypes/q5_1.h"
#include "ops/dtypes/q5_k.h"
#include "ops/dtypes/q6_k.h"
#include "ops/dtypes/q8_0.h"

namespace mica::vulkan {
namespace {

enum { kQ, kS, kH, kD };

// A block's place in each plane.
template <class Byte>
struct Places {
  Byte* at[kPlanes];
};
using Out = Places<uint8_t>;
using In = Places<const uint8_t>;

uint32_t load_word(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
void store_word(uint8_t* p, uint32_t v) { std::memcpy(p, &v, sizeof v); }

// Bits 0 … 3 to bit 0 of bytes 0 … 3, and back.
uint32_t spread_bits(uint32_t nibble) { return (nibble * 0x00204081u) & 0x01010101u; }
uint32_t gather_bits(uint32_t bytes) { return ((bytes & 0x01010101u) * 0x01020408u) >> 24; }

// Fifth bits: in files bit e is element e's, in a unit bit 8 * (e % 4) + e / 4.
void pack_fifth(const uint8_t* qh, uint8_t* h) {
  const uint32_t bits = load_word(qh);
  uint32_t word = 0;
  for (uint32_t i = 0; i < 8; ++i) word |= spread_bits(bits >> (4 * i) & 15u) << i;
  store_word(h, word);
}
void unpack_fifth(const uint8_t* h, uint8_t* qh) {
  const uint32_t word = load_word(h);
  uint32_t bits = 0;
  for (uint32_t i = 0; i < 8; ++i) bits |= (gather_bits(word >> i) & 15u) << (4 * i);
  store_word(qh, bits);
}

// 64 elements: files have the first 32 in low nibbles and the next 32 in high ones; a unit has its
// own elements 0 … 15 in low nibbles and 16 … 31 in high ones.
void pack_nibbles(const uint8_t* lo, const uint8_t* hi, uint32_t shift, uint8_t* unit) {
  for (int j = 0; j < 16; ++j)
    unit[j] = static_cast<uint8_t>((lo[j] >> shift & 15) | (hi[j] >> shift & 15) << 4);
}
void unpack_nibbles(const uint8_t* unit, uint32_t shift, uint8_t* lo, uint8_t* hi) {
  for (int j = 0; j < 16; ++j) {
    lo[j] = static_cast<uint8_t>(lo[j] | (unit[j] & 15) << shift);
    hi[j] = static_cast<uint8_t>(hi[j] | unit[j] >> 4 << shift);
  }
}

// Scales of q4_k and q5_k: 8 bytes with the low 4 bits of scale and min, then 8 nibbles with the
// upper 2 bits of both.
void pack_scales(const uint8_t* packed, uint8_t* s) {
  uint8_t scale[8], min[8];
  unpack_k_scales(packed, scale, min);
  uint32_t high = 0;
  for (uint32_t g = 0; g < 8; ++g) {
    s[g] = static_cast<uint8_t>((scale[g] & 15) | (min[g] & 15) << 4);
    high |= static_cast<uint32_t>(scale[g] >> 4 | min[g] >> 4 << 2) << (4 * g);
  }
  store_word(s + 8, high);
}
void unpack_scales(const uint8_t* s, uint8_t* packed) {
  uint8_t scale[8], min[8];
  const uint32_t high = load_word(s + 8);
  for (uint32_t g = 0; g < 8; ++g) {
    const uint32_t two = high >> (4 * g);
    scale[g] = static_cast<uint8_t>((s[g] & 15) | (two & 3u) << 4);
    min[g] = static_cast<uint8_t>(s[g] >> 4 | (two >> 2 & 3u) << 4);
  }
  pack_k_scales(scale, min, packed);
}

void pack(const mica_block_q4_0& b, const Out& p) {
  std::memcpy(p.at[kQ], b.qs, 16);
  std::memcpy(p.at[kS], &b.d, 2);
}
void unpack(const In& p, mica_block_q4_0& b) {
  std::memcpy(b.qs, p.at[kQ], 16);
  std::memcpy(&b.d, p.at[kS], 2);
}
void pack(const mica_block_q4_1& b, const Out& p) {
  std::memcpy(p.at[kQ], b.qs, 16);
  std::memcpy(p.at[kS], &b, 4);
}
void unpack(const In& p, mica_block_q4_1& b) {
  std::memcpy(b.qs, p.at[kQ], 16);
  std::memcpy(&b.d, p.at[kS], 2);
  std::memcpy(&b.m, p.at[kS] + 2, 2);
}
void pack(const mica_block_q5_0& b, const Out& p) {
  std::memcpy(p.at[kQ], b.qs, 16);
  std::memcpy(p.at[kS], &b.d, 2);
  pack_fifth(b.qh, p.at[kH]);
}
void unpack(const In& p, mica_block_q5_0& b) {
  std::memcpy(b.qs, p.at[kQ], 16);
  std::memcpy(&b.d, p.at[kS], 2);
  unpack_fifth(p.at[kH], b.qh);
}
void pack(const mica_block_q5_1& b, const Out& p) {
  std::memcpy(p.at[kQ], b.qs, 16);
  std::memcpy(p.at[kS], &b.d, 2);
  std::memcpy(p.at[kS] + 2, &b.m, 2);
  pack_fifth(b.qh, p.at[kH]);
}
void unpack(const In& p, mica_block_q5_1& b) {
  std::memcpy(b.qs, p.at[kQ], 16);
  std::memcpy(&b.d, p.at[kS], 2);
  std::memcpy(&b.m, p.at[kS] + 2, 2);
  unpack_fifth(p.at[kH], b.qh);
}
void pack(const mica_block_q8_0& b, const Out& p) {
  std::memcpy(p.at[kQ], b.qs, 32);
  std::memcpy(p.at[kS], &b.d, 2);
}
void unpack(const In& p, mica_block_q8_0& b) {
  std::memcpy(b.qs, p.at[kQ], 32);
  std::memcpy(&b.d, p.at[kS], 2);
}

void pack_k_quants(const uint8_t* qs, uint8_t* q) {
  for (uint32_t g = 0; g < 8; ++g) {
    const uint8_t* from = qs + g / 2 * 32;
    pack_nibbles(from, from + 16, g % 2 * 4, q + 16 * g);
  }
}
void unpack_k_quants(const uint8_t* q, uint8_t* qs) {
  std::memset(qs, 0, 128);
  for (uint32_t g = 0; g < 8; ++g) {
    uint8_t* to = qs + g / 2 * 32;
    unpack_nibbles(q + 16 * g, g % 2 * 4, to, to + 16);
  }
}

void pack(const mica_block_q4_k& b, const Out& p) {
  pack_k_quants(b.qs, p.at[kQ]);
  std::memcpy(p.at[kS], &b.d, 2);
  std::memcpy(p.at[kS] + 2, &b.dmin, 2);
  pack_scales(b.scales, p.at[kS] + 4);
}
void unpack(const In& p, mica_block_q4_k& b) {
  unpack_k_quants(p.at[kQ], b.qs);
  std::memcpy(&b.d, p.at[kS], 2);
  std::memcpy(&b.dmin, p.at[kS] + 2, 2);
  unpack_scales(p.at[kS] + 4, b.scales);
}
void pack(const mica_block_q5_k& b, const Out& p) {
  pack_k_quants(b.qs, p.at[kQ]);
  std::memcpy(p.at[kS], &b.d, 2);
  std::memcpy(p.at[kS] + 2, &b.dmin, 2);
  pack_scales(b.scales, p.at[kS] + 4);
  for (uint32_t g = 0; g < 8; ++g) {
    uint32_t word = 0;
    for (uint32_t i = 0; i < 8; ++i) word |= (load_word(b.qh + 4 * i) >> g & 0x01010101u) << i;
    store_word(p.at[kH] + 4 * g, word);
  }
}
void unpack(const In& p, mica_block_q5_k& b) {
  unpack_k_quants(p.at[kQ], b.qs);
  std::memcpy(&b.d, p.at[kS], 2);
  std::memcpy(&b.dmin, p.at[kS] + 2, 2);
  unpack_scales(p.at[kS] + 4, b.scales);
  for (uint32_t i = 0; i < 8; ++i) {
    uint32_t word = 0;
    for (uint32_t g = 0; g < 8; ++g) word |= (load_word(p.at[kH] + 4 * g) >> i & 0x01010101u) << g;
    store_word(b.qh + 4 * i, word);
  }
}

void pack(const mica_block_q6_k& b, const Out& p) {
  for (uint32_t u = 0; u < 8; ++u) {
    const uint8_t* low = b.ql + u / 4 * 64 + u % 2 * 32;
    pack_nibbles(low, low + 16, u % 4 / 2 * 4, p.at[kQ] + 16 * u);
    for (uint32_t i = 0; i < 8; i += 4) {
      uint32_t word = 0;
      for (uint32_t j = 0; j < 4; ++j) {
        const uint32_t four = load_word(b.qh + u / 4 * 32 + 4 * (i + j));
        word |= (four >> (u % 4 * 2) & 0x03030303u) << (2 * j);
      }
      store_word(p.at[kH] + 8 * u + i, word);
    }
  }
  std::memcpy(p.at[kS], b.scales, 16);
  std::memcpy(p.at[kD], &b.d, 2);
}
void unpack(const In& p, mica_block_q6_k& b) {
  std::memset(b.ql, 0, sizeof b.ql);
  std::memset(b.qh, 0, sizeof b.qh);
  for (uint32_t u = 0; u < 8; ++u) {
    uint8_t* low = b.ql + u / 4 * 64 + u % 2 * 32;
    unpack_nibbles(p.at[kQ] + 16 * u, u % 4 / 2 * 4, low, low + 16);
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t word = load_word(p.at[kH] + 8 * u + i / 4 * 4) >> (i % 4 * 2);
      uint8_t* four = b.qh + u / 4 * 32 + 4 * i;
      store_word(four, load_word(four) | (word & 0x03030303u) << (u % 4 * 2));
    }
  }
  std::memcpy(b.scales, p.at[kS], 16);
  std::memcpy(&b.d, p.at[kD], 2);
}

struct Type {
  mica_dtype dtype;
  uint32_t block_elems, block_bytes;
  uint32_t plane_bytes[kPlanes];  // of a block
  void (*pack)(const uint8_t* block, const Out& places);
  void (*unpack)(const In& places, uint8_t* block);
};

template <class Block>
void pack_bytes(const uint8_t* bytes, const Out& places) {
  Block block;
  std::memcpy(&block, bytes, sizeof block);
  pack(block, places);
}
template <class Block>
void unpack_bytes(const In& places, uint8_t* bytes) {
  Block block;
  unpack(places, block);
  std::memcpy(bytes, &block, sizeof block);
}
#define MICA_PLANES_TYPE(NAME, name, elems, ...)                                                 \
  {                                                                                              \
    MICA_##NAME, elems, sizeof(mica_block_##name), {__VA_ARGS__}, pack_bytes<mica_block_##name>, \
        unpack_bytes<mica_block_##name>                                                          \
  }
constexpr Type kTypes[] = {
    MICA_PLANES_TYPE(Q4_0, q4_0, 32, 16, 2, 0, 0),
    MICA_PLANES_TYPE(Q4_1, q4_1, 32, 16, 4, 0, 0),
    MICA_PLANES_TYPE(Q5_0, q5_0, 32, 16, 2, 4, 0),
    MICA_PLANES_TYPE(Q5_1, q5_1, 32, 16, 4, 4, 0),
    MICA_PLANES_TYPE(Q8_0, q8_0, 32, 32, 2, 0, 0),
    MICA_PLANES_TYPE(Q4_K, q4_k, 256, 128, 16, 0, 0),
    MICA_PLANES_TYPE(Q5_K, q5_k, 256, 128, 16, 32, 0),
    MICA_PLANES_TYPE(Q6_K, q6_k, 256, 128, 16, 64, 2),
};
#undef MICA_PLANES_TYPE

const Type* find_type(mica_dtype dtype) {
  for (const Type& t : kTypes)
    if (t.dtype == dtype) return &t;
  return nullptr;
}

template <class Byte>
Places<Byte> places_of(const Type& t, Byte* const* row, int64_t block) {
  Places<Byte> p;
  for (uint32_t i = 0; i < kPlanes; ++i)
    p.at[i] = t.plane_bytes[i] != 0 ? row[i] + block * t.plane_bytes[i] : nullptr;
  return p;
}

}  // namespace

bool planes_of(mica_dtype dtype, int64_t n_elems, uint64_t n_rows, Planes& out) {
  out = Planes{};
  const Type* t = find_type(dtype);
  if (t == nullptr || n_elems < 0 || n_rows > INT64_MAX) return false;
  const int64_t n_blocks = n_elems / t->block_elems;
  int64_t end = 0;
  for (uint32_t i = 0; i < kPlanes; ++i) {
    int64_t row = 0, plane = 0;
    if (!checked_mul(n_blocks, static_cast<int64_t>(t->plane_bytes[i]), row) ||
        !checked_align<int64_t>(row, 4, row) || !checked_align<int64_t>(end, 16, end) ||
        !checked_mul(row, static_cast<int64_t>(n_rows), plane))
      return false;
    out.offset[i] = static_cast<uint64_t>(end);
    out.row_bytes[i] = static_cast<uint64_t>(row);
    out.block_bytes[i] = t->plane_bytes[i];
    if (!checked_add(end, plane, end)) return false;
  }
  out.bytes = static_cast<uint64_t>(end);
  return true;
}

void pack_row(mica_dtype dtype, int64_t n_elems, const uint8_t* row, uint8_t* const* places) {
  const Type* t = find_type(dtype);
  if (t == nullptr) return;
  for (int64_t i = 0; i < n_elems / t->block_elems; ++i)
    t->pack(row + i * t->block_bytes, places_of(*t, places, i));
}

void unpack_row(mica_dtype dtype, int64_t n_elems, const uint8_t* const* places, uint8_t* row) {
  const Type* t = find_type(dtype);
  if (t == nullptr) return;
  for (int64_t i = 0; i < n_elems / t->block_elems; ++i)
    t->unpack(places_of(*t, places, i), row + i * t->block_bytes);
}

}  // namespace mica::vulkan
