#version 460
#extension GL_GOOGLE_include_directive : require
// copy: packs values, in the same or another dtype. A thread does a unit: an element, two bytes of
// a block that stays what it is, or a block of 32 to encode; of a K type (BLOCK_K) a workgroup does
// one block. Of a packed weight (PLANES) a thread makes a block as files have it.
//! variant -
//! variant k -DBLOCK_K
//! variant planes -DPLANES
#include "kernels/common/base.glsl"
#include "kernels/blocks.glsl"
#ifdef BLOCK_K
#include "kernels/k_blocks.glsl"
#endif

#ifdef PLANES

#include "kernels/copy_planes.glsl"

#else

layout(push_constant, scalar) uniform Push {
  uint64_t x, y, live;
  uint64_t s_x[4];  // bytes; s_x[0] of an element or block
  uint dim[4];      // of elements
  uint rank;
  uint x_dtype, y_dtype;
  uint unit_elems;  // elements of a unit
  uint units;       // units of an element or block of x: 1, or pairs of bytes
}
push;

// A unit and where its row begins.
struct Place {
  uint unit;     // in the row
  uint64_t row;  // of x
  uint64_t at;   // units before it in all of y
  bool inside;
};

Place place_of(uint64_t index) {
  uvec4 n = uvec4(push.dim[0], push.dim[1], push.dim[2], push.dim[3]);
  n[push.rank - 1u] = live_count(push.live, n[push.rank - 1u]);
  n.x = n.x / push.unit_elems * push.units;
  Place p;
  const uint64_t rows = uint64_t(n.y) * n.z * n.w;
  p.inside = n.x != 0u && index < rows * n.x;
  if (!p.inside) return p;
  const uint i = uint(index);
  p.at = index;
  p.unit = i % n.x;
  const uint i_row = i / n.x;
  p.row = push.x + i_row % n.y * push.s_x[1] + i_row / n.y % n.z * push.s_x[2] +
          i_row / n.y / n.z * push.s_x[3];
  return p;
}

#ifdef BLOCK_K

void main() {
  const Place p = place_of(folded_group());
  if (!p.inside) return;
  for (uint i = gl_LocalInvocationID.x; i < 256u; i += gl_WorkGroupSize.x) {
    k_value[i] = F32P(p.row + (p.unit * 256u + i) * push.s_x[0]).v[0];
  }
  barrier();
  k_encode(push.y_dtype, push.y + p.at * block_bytes(push.y_dtype));
}

#else

bool is_int(uint dtype) { return dtype == MICA_I32 || dtype == MICA_I64; }

int64_t load_int(uint dtype, uint64_t at) {
  return dtype == MICA_I32 ? int64_t(I32P(at).v[0]) : I64P(at).v[0];
}
void store_int(uint dtype, uint64_t at, int64_t value) {
  if (dtype == MICA_I64) {
    I64P(at).v[0] = value;
  } else {
    I32P(at).v[0] = value > 2147483647l    ? 2147483647
                    : value < -2147483648l ? int(0x80000000u)
                                           : int(value);
  }
}

// Half to even, or, with `odd`, towards zero with the last bit set when that is not exact: then
// rounding again, to a narrower type, gives what rounding once would.
float int_to_float(int64_t value, bool odd) {
  const uint64_t u = value < 0l ? 0ul - uint64_t(value) : uint64_t(value);
  const uint sign = value < 0l ? 0x80000000u : 0u;
  const uint high = uint(u >> 32);
  const int top = high != 0u ? 32 + findMSB(high) : findMSB(uint(u));
  if (top < 24) return uintBitsToFloat(sign | floatBitsToUint(float(uint(u))));
  const int shift = top - 23;
  uint kept = uint(u >> shift);
  const uint64_t lost = u & ((1ul << shift) - 1ul);
  const uint64_t half_way = 1ul << (shift - 1);
  if (odd) {
    kept |= lost != 0ul ? 1u : 0u;
  } else if (lost > half_way || (lost == half_way && (kept & 1u) != 0u)) {
    ++kept;
  }
  return uintBitsToFloat(sign | ((uint(127 + top) << 23) + (kept - 0x800000u)));
}

// Half to even; what is too large becomes the largest, NaN becomes 0.
int64_t float_to_int(float f, uint dtype) {
  const int64_t least_long = int64_t(0x8000000000000000ul);
  if (is_nan(f)) return 0l;
  if (dtype == MICA_I64) {
    if (f >= 9223372036854775808.0) return ~least_long;
    if (f < -9223372036854775808.0) return least_long;
  } else {
    if (f >= 2147483648.0) return 2147483647l;
    if (f < -2147483648.0) return -2147483648l;
  }
  return int64_t(roundEven(f));
}

void convert(uint64_t from, uint64_t to) {
  if (push.x_dtype == push.y_dtype) {
    const uint bytes = plain_bytes(push.y_dtype);
    if (bytes == 2u) {
      U16P(to).v[0] = U16P(from).v[0];
    } else if (bytes == 4u) {
      U32P(to).v[0] = U32P(from).v[0];
    } else {
      I64P(to).v[0] = I64P(from).v[0];
    }
    return;
  }
  if (is_int(push.x_dtype)) {
    const int64_t value = load_int(push.x_dtype, from);
    if (is_int(push.y_dtype)) {
      store_int(push.y_dtype, to, value);
    } else {
      store_float(push.y_dtype, to, 0u, int_to_float(value, push.y_dtype != MICA_F32));
    }
    return;
  }
  const float x = push.x_dtype == MICA_F16 ? f16_value(uint(U16P(from).v[0]))
                                           : load_float(push.x_dtype, from, 0u);
  if (is_int(push.y_dtype)) {
    store_int(push.y_dtype, to, float_to_int(x, push.y_dtype));
  } else {
    store_float(push.y_dtype, to, 0u, x);
  }
}

void main() {
  const Place p = place_of(folded_thread());
  if (!p.inside) return;
  const uint x_elems = block_elems(push.x_dtype);
  const uint y_elems = block_elems(push.y_dtype);
  if (x_elems == 1u && y_elems == 1u) {
    convert(p.row + p.unit * push.s_x[0], push.y + p.at * plain_bytes(push.y_dtype));
  } else if (push.x_dtype == push.y_dtype) {
    const uint64_t block = p.row + p.unit / push.units * push.s_x[0];
    U16P(push.y + p.at * 2ul).v[0] = U16P(block + p.unit % push.units * 2u).v[0];
  } else if (y_elems == 1u) {
    const uint64_t block = p.row + p.unit / x_elems * push.s_x[0];
    F32P(push.y + p.at * 4ul).v[0] = decode_element(push.x_dtype, block, p.unit % x_elems);
  } else {
    float x[32];
    for (uint i = 0u; i < 32u; ++i) x[i] = F32P(p.row + (p.unit * 32u + i) * push.s_x[0]).v[0];
    store_block(push.y_dtype, push.y + p.at * block_bytes(push.y_dtype),
                encode_block(push.y_dtype, x));
  }
}

#endif

#endif
