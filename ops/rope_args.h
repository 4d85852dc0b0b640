/* Arguments of the ops rope and rope_angles; read by C, C++, CUDA and GLSL. */
#ifndef MICA_OPS_ROPE_ARGS_H_
#define MICA_OPS_ROPE_ARGS_H_
#ifndef GL_core_profile
#include <stdint.h>
#endif
struct mica_rope_args {
  uint32_t n_rot;   /* even, never 0: elements of a row of the angles */
  uint32_t offset;  /* first rotated element */
  uint32_t pairing; /* mica_rope_pairing */
  float magnitude;  /* multiplies the rotated elements; YaRN's is in it */
};
struct mica_rope_angles_args {
  uint32_t n_rot; /* even, never 0 */
  uint32_t n_ctx_orig;
  float base;
  float linear_scale;
  float ext_factor; /* 0: no YaRN */
  float beta_fast;
  float beta_slow;
};
#endif
