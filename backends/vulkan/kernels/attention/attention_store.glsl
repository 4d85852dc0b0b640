// Encodes a block of 32 elements to its place in a page. Include after blocks.glsl and
// attention_page.glsl.
void store_page_block(Page p, uint64_t head, uint cell, uint block, float x[32]) {
  const Block b = encode_block(p.dtype, x);
  const uint64_t quants = head + cell * p.row_bytes + block * (p.row_bytes / p.n_blocks);
  U32x4P(quants).v[0] = uvec4(b.quants[0], b.quants[1], b.quants[2], b.quants[3]);
  if (p.dtype == MICA_Q8_0) {
    U32x4P(quants).v[1] = uvec4(b.quants[4], b.quants[5], b.quants[6], b.quants[7]);
  }
  if (has_fifths(p.dtype)) U32P(head + fifths_at(p, cell, block)).v[0] = b.fifths;
  const uint64_t scale = head + scale_at(p, cell, block);
  if (has_min(p.dtype)) {
    U32P(scale).v[0] = b.d | b.m << 16;
  } else {
    U16P(scale).v[0] = uint16_t(b.d);
  }
}
