#version 460
#extension GL_GOOGLE_include_directive : require
// kv_shift: a workgroup rotates a listed cell's row of one kv head after the other. The list is
// step data and never trusted: numbers out of range are not followed.
#include "kernels/common/base.glsl"
#include "kernels/blocks.glsl"
#include "kernels/rope_angle.glsl"
#include "kernels/rope_exact.glsl"
#include "kernels/attention/attention_page.glsl"
#include "kernels/attention/attention_store.glsl"

layout(constant_id = 3) const uint kDtype = MICA_F16;
layout(constant_id = 4) const uint kHeadDim = 64;
layout(constant_id = 5) const uint kHalfSplit = 0;
layout(constant_id = 6) const uint kFactors = 0;
layout(constant_id = 7) const uint kRowElems = 1;  // of a quantized type's row

layout(push_constant, scalar) uniform Push {
  uint64_t state, shifts, revolutions, factors;
  uint max_entries, n_kv_heads, n_cells, n_rot, offset;
}
push;

shared float decoded[kRowElems];

uint64_t phase_of(uint pair, int64_t by) {
  uint64_t revolutions = U64P(push.revolutions).v[pair];
  if (kFactors != 0u) revolutions = divided(revolutions, F32P(push.factors).v[pair]);
  return revolutions * uint64_t(by);
}
// The elements of a pair.
uvec2 elements_of(uint pair) {
  const uint d = push.offset + (kHalfSplit != 0u ? pair : 2u * pair);
  return uvec2(d, d + (kHalfSplit != 0u ? push.n_rot / 2u : 1u));
}

float load_exact(uint64_t row, uint d) {
  return kDtype == MICA_F16 ? f16_value(uint(U16P(row).v[d])) : load_float(kDtype, row, d);
}
void shift_plain(uint64_t row, int64_t by) {
  for (uint i = gl_LocalInvocationID.x; i < push.n_rot / 2u; i += gl_WorkGroupSize.x) {
    const uvec2 d = elements_of(i);
    const vec2 x = vec2(load_exact(row, d.x), load_exact(row, d.y));
    const vec2 y = rotated_exact(x, phase_of(i, by), kDtype != MICA_F32);
    store_float(kDtype, row, d.x, y.x);
    store_float(kDtype, row, d.y, y.y);
  }
}

// A pair's elements may be of two blocks, so all are decoded before one is encoded.
void shift_quantized(Page p, uint64_t head, uint cell, int64_t by) {
  barrier();  // the row before has been encoded
  for (uint d = gl_LocalInvocationID.x; d < kRowElems; d += gl_WorkGroupSize.x) {
    decoded[d] = d < kHeadDim ? stored_element(p, head, cell, d) : 0.0;
  }
  barrier();
  for (uint i = gl_LocalInvocationID.x; i < push.n_rot / 2u; i += gl_WorkGroupSize.x) {
    const uvec2 d = elements_of(i);
    const vec2 y = rotated_exact(vec2(decoded[d.x], decoded[d.y]), phase_of(i, by), false);
    decoded[d.x] = y.x;
    decoded[d.y] = y.y;
  }
  barrier();
  for (uint block = gl_LocalInvocationID.x; block < p.n_blocks; block += gl_WorkGroupSize.x) {
    float x[32];
    for (uint i = 0u; i < 32u; ++i) x[i] = decoded[block * 32u + i];
    store_page_block(p, head, cell, block, x);
  }
}

// By how many positions cell i of an entry moves.
int64_t difference(I32P entry, uint i) {
  const int from_div = entry.v[MICA_KV_SHIFT_FROM_DIV], to_div = entry.v[MICA_KV_SHIFT_TO_DIV];
  if (from_div < 1 || to_div < 1) return 0l;
  return (int64_t(entry.v[MICA_KV_SHIFT_TO]) + int64_t(i)) / int64_t(to_div) -
         (int64_t(entry.v[MICA_KV_SHIFT_FROM]) + int64_t(i)) / int64_t(from_div);
}

void main() {
  const Page p = page_of(kDtype, kHeadDim);
  const uint n_entries = uint(clamp(I32P(push.shifts).v[0], 0, int(push.max_entries)));
  const uint n = n_entries * (MICA_KV_PAGE_CELLS * push.n_kv_heads);
  for (uint item = gl_WorkGroupID.x; item < n; item += gl_NumWorkGroups.x) {
    const uint i_head = item % push.n_kv_heads, listed = item / push.n_kv_heads;
    const uint i = listed % MICA_KV_PAGE_CELLS, i_entry = listed / MICA_KV_PAGE_CELLS;
    I32P entry = I32P(push.shifts + (1u + i_entry * MICA_KV_SHIFT_WORDS) * 4u);
    if (int(i) >= entry.v[MICA_KV_SHIFT_N_CELLS]) continue;
    const int64_t by = difference(entry, i);
    const int64_t slot = int64_t(entry.v[MICA_KV_SHIFT_PAGE]) * MICA_KV_PAGE_CELLS +
                         int64_t(entry.v[MICA_KV_SHIFT_FIRST_CELL]) + int64_t(i);
    if (by == 0l || slot < 0l || slot >= int64_t(push.n_cells)) continue;
    const uint cell = uint(slot) % MICA_KV_PAGE_CELLS;
    const uint64_t head =
        head_at(p, push.state, uint(slot) / MICA_KV_PAGE_CELLS, push.n_kv_heads, i_head);
    if (p.n_blocks != 0u) {
      shift_quantized(p, head, cell, by);
    } else {
      shift_plain(head + cell * p.row_bytes, by);
    }
  }
}
