/* Arguments of the op softmax; read by C, C++, CUDA and GLSL. */
#ifndef MICA_OPS_SOFTMAX_ARGS_H_
#define MICA_OPS_SOFTMAX_ARGS_H_
#ifndef GL_core_profile
#include <stdint.h>
#endif
struct mica_softmax_args {
  float scale;
};
#endif
