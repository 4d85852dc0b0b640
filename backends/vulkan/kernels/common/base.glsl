// What every shader starts with: extensions, typed device pointers, elements of the float types,
// live counts. Include it right after #version and GL_GOOGLE_include_directive.
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference2 : require
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_8bit_storage : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require

// Pointers: F32P(address).v[i]. An index is below 2^31; larger offsets go into the address.
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer F32P { float v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer I32P { int v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer U32P { uint v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 2) buffer F16P { float16_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 2) buffer U16P { uint16_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 1) buffer U8P { uint8_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 1) buffer I8P { int8_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer F32x4P { vec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer U32x4P { uvec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer U32x2P { uvec2 v[]; };

// mica_dtype
const uint MICA_F32 = 0;
const uint MICA_F16 = 1;
const uint MICA_Q4_0 = 2;
const uint MICA_Q4_1 = 3;
const uint MICA_Q5_0 = 6;
const uint MICA_Q5_1 = 7;
const uint MICA_Q8_0 = 8;
const uint MICA_Q4_K = 12;
const uint MICA_Q5_K = 13;
const uint MICA_Q6_K = 14;
const uint MICA_I32 = 26;
const uint MICA_I64 = 27;
const uint MICA_BF16 = 30;

// The live count behind Tensor::live, or the maximum where there is none.
uint live_count(uint64_t live, uint max_count) {
  return live != 0 ? min(uint(I32P(live).v[0]), max_count) : max_count;
}

// Bits of a float type's element, half to even, in integers: no driver's rounding mode or flushing
// of subnormals counts.
uint f16_bits(float x) {
  const uint bits = floatBitsToUint(x);
  const uint sign = (bits >> 16) & 0x8000u;
  const uint mag = bits & 0x7fffffffu;
  if (mag >= 0x7f800000u) {
    return sign | (mag > 0x7f800000u ? 0x7e00u | ((mag >> 13) & 0x3ffu) : 0x7c00u);
  }
  if (mag >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 2^16 or more
  if (mag >= 0x38800000u) {                       // normal: 13 bits are dropped
    const uint rounded = mag + 0xfffu + ((mag >> 13) & 1u);
    return sign | ((rounded - 0x38000000u) >> 13);
  }
  if (mag < 0x33000000u) return sign;  // below half of the smallest
  const uint shift = 126u - (mag >> 23);
  const uint mantissa = (mag & 0x7fffffu) | 0x800000u;
  const uint half_unit = 1u << (shift - 1u);
  return sign | ((mantissa + half_unit - 1u + ((mantissa >> shift) & 1u)) >> shift);
}
float f16_value(uint bits) {
  const uint mag = bits & 0x7fffu;
  const uint sign = (bits & 0x8000u) << 16;
  if (mag >= 0x7c00u) {
    const uint quiet = mag > 0x7c00u ? 0x400000u : 0u;
    return uintBitsToFloat(sign | 0x7f800000u | quiet | ((mag & 0x3ffu) << 13));
  }
  if (mag >= 0x400u) return uintBitsToFloat(sign | ((mag << 13) + 0x38000000u));
  const float tiny = float(mag) * 5.9604644775390625e-8;  // 2^-24: exact
  return uintBitsToFloat(sign | floatBitsToUint(tiny));
}
uint bf16_bits(float x) {
  const uint bits = floatBitsToUint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
float bf16_value(uint bits) { return uintBitsToFloat(bits << 16); }

uint float_bytes(uint dtype) { return dtype == MICA_F32 ? 4u : 2u; }
// Element i of F32, F16 or BF16 from `address` on.
float load_float(uint dtype, uint64_t address, uint i) {
  if (dtype == MICA_F32) return F32P(address).v[i];
  if (dtype == MICA_F16) return float(F16P(address).v[i]);
  return bf16_value(uint(U16P(address).v[i]));
}
void store_float(uint dtype, uint64_t address, uint i, float x) {
  if (dtype == MICA_F32) {
    F32P(address).v[i] = x;
  } else {
    U16P(address).v[i] = uint16_t(dtype == MICA_F16 ? f16_bits(x) : bf16_bits(x));
  }
}
// What a value becomes when it is stored and loaded again.
float rounded_to(uint dtype, float x) {
  if (dtype == MICA_F16) return f16_value(f16_bits(x));
  if (dtype == MICA_BF16) return bf16_value(bf16_bits(x));
  return x;
}
