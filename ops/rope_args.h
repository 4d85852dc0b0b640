/* Arguments of the op rope; read by C, C++, CUDA and GLSL. */
#ifndef MICA_OPS_ROPE_ARGS_H_
#define MICA_OPS_ROPE_ARGS_H_
#ifndef GL_core_profile
#include <stdint.h>
#endif
struct mica_rope_args {
  uint32_t n_rot;   /* even, never 0 */
  uint32_t offset;  /* first rotated element */
  uint32_t pairing; /* mica_rope_pairing */
  uint32_t n_ctx_orig;
  float base;
  float linear_scale;
  float ext_factor; /* 0: no YaRN */
  float attn_factor;
  float beta_fast;
  float beta_slow;
};
#endif
