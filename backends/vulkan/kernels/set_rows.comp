#version 460
#extension GL_GOOGLE_include_directive : require
// set_rows: a workgroup takes one row of src to its place in dst, converted. Of rows that go to one
// place the last stays.
//! variant -
//! variant k -DBLOCK_K
#include "kernels/common/base.glsl"
#include "kernels/blocks.glsl"
#ifdef BLOCK_K
#include "kernels/k_blocks.glsl"
#endif

layout(push_constant, scalar) uniform Push {
  uint64_t dst, src, ids, live;
  uint64_t s_dst, s_src;  // bytes of a row
  uint n_ids, n_rows, n_elems;
  uint dst_dtype, src_dtype, id_dtype;
}
push;

shared uint again;

int64_t id_of(uint i) {
  return push.id_dtype == MICA_I32 ? int64_t(I32P(push.ids).v[i]) : I64P(push.ids).v[i];
}

float element(uint64_t row, uint i) {
  if (push.src_dtype == MICA_F16) return f16_value(uint(U16P(row).v[i]));
  return load_float(push.src_dtype, row, i);
}

// One element, block of 32, or (by the workgroup together) K block.
void convert(uint64_t src, uint64_t dst, uint i) {
#ifdef BLOCK_K
  for (uint j = gl_LocalInvocationID.x; j < 256u; j += gl_WorkGroupSize.x) {
    k_value[j] = element(src, i * 256u + j);
  }
  barrier();
  k_encode(push.dst_dtype, dst + i * block_bytes(push.dst_dtype));
#else
  if (push.dst_dtype == push.src_dtype) {
    if (push.dst_dtype == MICA_F32) {
      U32P(dst).v[i] = U32P(src).v[i];
    } else {
      U16P(dst).v[i] = U16P(src).v[i];
    }
  } else if (block_elems(push.dst_dtype) == 1u) {
    store_float(push.dst_dtype, dst, i, element(src, i));
  } else {
    float x[32];
    for (uint j = 0u; j < 32u; ++j) x[j] = element(src, i * 32u + j);
    store_block(push.dst_dtype, dst + i * block_bytes(push.dst_dtype),
                encode_block(push.dst_dtype, x));
  }
#endif
}

void main() {
  const uint i_id = uint(folded_group());
  const uint n_ids = live_count(push.live, push.n_ids);
  if (folded_group() >= uint64_t(n_ids)) return;
  const int64_t id = id_of(i_id);
  if (id < 0l || id >= int64_t(push.n_rows)) return;
  if (gl_LocalInvocationID.x == 0u) again = 0u;
  barrier();
  for (uint i = i_id + 1u + gl_LocalInvocationID.x; i < n_ids; i += gl_WorkGroupSize.x) {
    if (id_of(i) == id) again = 1u;
  }
  barrier();
  if (again != 0u) return;
  const uint64_t src = push.src + i_id * push.s_src;
  const uint64_t dst = push.dst + uint64_t(id) * push.s_dst;
  const uint n = push.n_elems / block_elems(push.dst_dtype);
#ifdef BLOCK_K
  for (uint i = 0u; i < n; ++i) convert(src, dst, i);
#else
  for (uint i = gl_LocalInvocationID.x; i < n; i += gl_WorkGroupSize.x) convert(src, dst, i);
#endif
}
