/* Arguments of the op attention; read by C, C++, CUDA and GLSL. */
#ifndef MICA_OPS_ATTENTION_ARGS_H_
#define MICA_OPS_ATTENTION_ARGS_H_
#ifndef GL_core_profile
#include <stdint.h>
#endif
struct mica_attention_args {
  float scale;       /* never 0: the builder puts 1 / sqrt(head_dim_k) there */
  float softcap;     /* 0: none */
  uint32_t causal;   /* 0 or 1 */
  uint32_t window;   /* 0: none */
  uint32_t n_first;  /* positions below it are seen beside the window */
  uint32_t max_seqs; /* how the table is laid out */
};
#endif
