// Blocks of files from the planes of a packed weight: planes.cpp's unpack, bit by bit. Include
// after blocks.glsl.

layout(push_constant, scalar) uniform Push {
  uint64_t plane[4];     // q, s, h, d
  uint64_t y, n_blocks;  // of all rows
  uint row_bytes[4], block_bytes[4];
  uint n_row_blocks, dtype;
}
push;

// Where a block's bits are.
struct Planes {
  uint64_t q, s, h, d;
};
uint64_t plane_at(uint i, uint64_t row, uint block) {
  return push.plane[i] + row * push.row_bytes[i] + block * push.block_bytes[i];
}

uint word_at(uint64_t at, uint i) { return U32P(at).v[i]; }
// Blocks lie at multiples of two.
uint64_t put2(uint64_t to, uint bits) {
  U16P(to).v[0] = uint16_t(bits);
  return to + 2ul;
}
uint64_t put4(uint64_t to, uint bits) { return put2(put2(to, bits & 0xffffu), bits >> 16); }
uint64_t put_pairs(uint64_t to, uint64_t from, uint n_bytes) {
  for (uint i = 0u; i < n_bytes / 2u; ++i) to = put2(to, uint(U16P(from).v[i]));
  return to;
}

// Of types of 32: scales, fifth bits (bit 8 (e % 4) + e / 4 of a word is element e's), quants.
void put_block(Planes p, uint64_t to) {
  to = put_pairs(to, p.s, push.block_bytes[1]);
  if (push.block_bytes[2] != 0u) {
    const uint word = word_at(p.h, 0u);
    uint bits = 0u;
    for (uint e = 0u; e < 32u; ++e) bits |= (word >> (8u * (e % 4u) + e / 4u) & 1u) << e;
    to = put4(to, bits);
  }
  put_pairs(to, p.q, push.block_bytes[0]);
}

// Low bits of elements 4c ... 4c + 3 of unit u: a unit has its first 16 in low nibbles.
uint low_quad(Planes p, uint u, uint c) {
  return word_at(p.q, 4u * u + c % 4u) >> (c / 4u * 4u) & 0x0f0f0f0fu;
}

// The 12 bytes of ops/dtypes/k_scales.h.
uint64_t put_k_scales(uint64_t from, uint64_t to) {
  const uint high = word_at(from, 2u);
  uint scale[8], least[8];
  for (uint g = 0u; g < 8u; ++g) {
    const uint low = byte_at(from, g);
    scale[g] = (low & 15u) | (high >> (4u * g) & 3u) << 4;
    least[g] = low >> 4 | (high >> (4u * g + 2u) & 3u) << 4;
  }
  uint word[3] = {0u, 0u, 0u};
  for (uint i = 0u; i < 4u; ++i) {
    word[0] |= (scale[i] | scale[4u + i] >> 4 << 6) << (8u * i);
    word[1] |= (least[i] | least[4u + i] >> 4 << 6) << (8u * i);
    word[2] |= ((scale[4u + i] & 15u) | (least[4u + i] << 4 & 0xf0u)) << (8u * i);
  }
  return put4(put4(put4(to, word[0]), word[1]), word[2]);
}

void put_q4_q5_k(Planes p, uint64_t to) {
  to = put_pairs(to, p.s, 4u);
  to = put_k_scales(p.s + 4ul, to);
  for (uint i = 0u; push.dtype == MICA_Q5_K && i < 8u; ++i) {
    uint word = 0u;
    for (uint g = 0u; g < 8u; ++g) word |= (word_at(p.h, g) >> i & 0x01010101u) << g;
    to = put4(to, word);
  }
  for (uint i = 0u; i < 32u; ++i) {
    const uint g = i / 8u * 2u;
    to = put4(to, low_quad(p, g, i % 8u) | low_quad(p, g + 1u, i % 8u) << 4);
  }
}

void put_q6_k(Planes p, uint64_t to) {
  for (uint i = 0u; i < 32u; ++i) {
    const uint u = i / 16u * 4u + i % 16u / 8u;
    to = put4(to, low_quad(p, u, i % 8u) | low_quad(p, u + 2u, i % 8u) << 4);
  }
  for (uint i = 0u; i < 16u; ++i) {
    const uint c = i % 8u;
    uint word = 0u;
    for (uint k = 0u; k < 4u; ++k) {
      const uint two = word_at(p.h, 2u * (i / 8u * 4u + k) + c / 4u) >> (c % 4u * 2u);
      word |= (two & 0x03030303u) << (2u * k);
    }
    to = put4(to, word);
  }
  put_pairs(put_pairs(to, p.s, 16u), p.d, 2u);
}

void main() {
  const uint64_t index = folded_thread();
  if (index >= push.n_blocks) return;
  const uint64_t row = index / push.n_row_blocks;
  const uint block = uint(index % push.n_row_blocks);
  const Planes p = {plane_at(0u, row, block), plane_at(1u, row, block), plane_at(2u, row, block),
                    plane_at(3u, row, block)};
  const uint64_t to = push.y + index * block_bytes(push.dtype);
  if (push.dtype == MICA_Q6_K) {
    put_q6_k(p, to);
  } else if (block_elems(push.dtype) == 256u) {
    put_q4_q5_k(p, to);
  } else {
    put_block(p, to);
  }
}
