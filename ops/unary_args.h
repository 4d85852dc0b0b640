/* Arguments of the op scale, the one unary op that has some; read by C, C++, CUDA and GLSL. */
#ifndef MICA_OPS_UNARY_ARGS_H_
#define MICA_OPS_UNARY_ARGS_H_
#ifndef GL_core_profile
#include <stdint.h>
#endif
struct mica_scale_args {
  float scale;
  float bias;
};
#endif
