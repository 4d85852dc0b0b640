/* Arguments of the op top_k; read by C, C++, CUDA and GLSL. */
#ifndef MICA_OPS_TOP_K_ARGS_H_
#define MICA_OPS_TOP_K_ARGS_H_
#ifndef GL_core_profile
#include <stdint.h>
#endif
struct mica_top_k_args {
  uint32_t k;
};
#endif
