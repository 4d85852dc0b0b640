/* Arguments of the op copy; read by C, C++, CUDA and GLSL. */
#ifndef MICA_OPS_COPY_ARGS_H_
#define MICA_OPS_COPY_ARGS_H_
#ifndef GL_core_profile
#include <stdint.h>
#endif
struct mica_copy_args {
  uint32_t dtype; /* mica_dtype of the result */
};
#endif
