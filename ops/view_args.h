/* Arguments of the ops view, reshape and permute; read by C, C++, CUDA and GLSL. */
#ifndef MICA_OPS_VIEW_ARGS_H_
#define MICA_OPS_VIEW_ARGS_H_
#ifndef GL_core_profile
#include <stdint.h>
#endif
struct mica_view_args {
  uint32_t rank;
  uint32_t dim[4];   /* unused ones are 1 */
  uint32_t start[4]; /* first element in each dimension */
};
struct mica_reshape_args {
  uint32_t rank;
  uint32_t dim[4]; /* unused ones are 1 */
};
struct mica_permute_args {
  uint32_t axis[4]; /* dim[i] of the result is dim[axis[i]] of x */
};
#endif
