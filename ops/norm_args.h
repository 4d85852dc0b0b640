/* Arguments of the ops rms_norm and layer_norm; read by C, C++, CUDA and GLSL. */
#ifndef MICA_OPS_NORM_ARGS_H_
#define MICA_OPS_NORM_ARGS_H_
#ifndef GL_core_profile
#include <stdint.h>
#endif
struct mica_rms_norm_args {
  float eps;
};
struct mica_layer_norm_args {
  float eps;
};
#endif
