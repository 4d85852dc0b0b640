/* Arguments of the op concat; read by C, C++, CUDA and GLSL. */
#ifndef MICA_OPS_CONCAT_ARGS_H_
#define MICA_OPS_CONCAT_ARGS_H_
#ifndef GL_core_profile
#include <stdint.h>
#endif
struct mica_concat_args {
  uint32_t dim; /* the dimension along which b follows a: 0 … 3 */
};
#endif
