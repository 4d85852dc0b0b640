// Pages of K and V to shared memory, as matrices of F16. Included by attention_coop.glsl only.
//
// Rotated K does not fit F16: it is two parts of 11 bits each, as q is. The upper is K rounded to
// the nearest, so that what is left has either sign and its product with the lower part of q may
// be dropped. Both parts are of K times kKeyTimes, because two elements of F16's size may give one
// that is larger; the lower, times kLowerTimes too, is no subnormal.
const float kKeyTimes = 0.5, kLowerTimes = 2048.0;

bool is_inside(uint cell, ivec2 range) { return int(cell) >= range.x && int(cell) < range.y; }

// All loads are on their way before the first is waited for.
const uint kPartsK = (128u * kFragsK + kSize - 1u) / kSize;
const uint kPartsV = (128u * kFragsV + kSize - 1u) / kSize;
uvec4 loaded_k[kPartsK], loaded_v[kPartsV];
void load_pages(Page pk, uint64_t k_head, Page pv, uint64_t v_head, ivec2 range) {
  FRAG_UNROLL for (uint i = 0u; i < kPartsK; ++i) {
    const uint part = tid() + i * kSize, cell = part / (kFragsK * 2u), lane = part % (kFragsK * 2u);
    loaded_k[i] = uvec4(0u);
    if (lane < kLanesK && is_inside(cell, range)) loaded_k[i] = load_key(pk, k_head, cell, lane).a;
  }
  FRAG_UNROLL for (uint i = 0u; i < kPartsV; ++i) {
    const uint part = tid() + i * kSize, cell = part / (kFragsV * 2u), lane = part % (kFragsV * 2u);
    loaded_v[i] = uvec4(0u);
    if (lane < kLanesV && is_inside(cell, range))
      loaded_v[i] = U32x4P(v_head + cell * pv.row_bytes).v[lane];
  }
}

float nearest_upper_of(float x) {
  return uintBitsToFloat(floatBitsToUint(x) + 0x1000u & 0xffffe000u);
}
float of_lower_key(float product) { return product / kLowerTimes; }

// The seam key_operand: 8 elements of K as the fragments take them, to pool_k, and of rotated ones
// the lower parts to pool_v.
void put_rotated_key(Entry e, uint cell, uint lane, uvec4 stored) {
  float k[8];
  decode_key(Raw(stored, uvec4(0u), 0u), k);
  rotate_key(cell_angles(e, lane, int(cell)), k);
  uvec4 high, low;
  [[unroll]] for (uint j = 0u; j < 4u; ++j) {
    const vec2 x = vec2(k[2u * j], k[2u * j + 1u]) * kKeyTimes;
    const vec2 upper = vec2(nearest_upper_of(x.x), nearest_upper_of(x.y));
    high[j] = packFloat2x16(f16vec2(upper));
    low[j] = packFloat2x16(f16vec2((x - upper) * kLowerTimes));
  }
  pool_k[cell * kPitchK + lane] = high;
  pool_v[cell * kPitchK + lane] = low;
}
void put_keys(Entry e, ivec2 range) {
  FRAG_UNROLL for (uint i = 0u; i < kPartsK; ++i) {
    const uint part = tid() + i * kSize, cell = part / (kFragsK * 2u), lane = part % (kFragsK * 2u);
    if (part >= 128u * kFragsK) continue;
    if (kRotates && lane < kLanesK && is_inside(cell, range)) {
      put_rotated_key(e, cell, lane, loaded_k[i]);
    } else {
      pool_k[cell * kPitchK + lane] = loaded_k[i];
      if (kRotates) pool_v[cell * kPitchK + lane] = uvec4(0u);
    }
  }
}

// Is a half infinite or not-a-number?
bool has_not_finite(uvec4 halves) {
  bool found = false;
  [[unroll]] for (uint i = 0u; i < 4u; ++i) found =
      found || (halves[i] & 0x7c00u) == 0x7c00u || (halves[i] & 0x7c000000u) == 0x7c000000u;
  return found;
}
void put_values(bool hides) {
  FRAG_UNROLL for (uint i = 0u; i < kPartsV; ++i) {
    const uint part = tid() + i * kSize;
    if (part < 128u * kFragsV)
      pool_v[part / (kFragsV * 2u) * kPitchV + part % (kFragsV * 2u)] = loaded_v[i];
    if (hides && has_not_finite(loaded_v[i])) page_apart = 1u;
  }
}
