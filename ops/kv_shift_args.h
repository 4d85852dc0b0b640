/* Arguments of the op kv_shift; read by C, C++ and CUDA. */
#ifndef MICA_OPS_KV_SHIFT_ARGS_H_
#define MICA_OPS_KV_SHIFT_ARGS_H_
#include "rope_args.h"
struct mica_kv_shift_args {
  struct mica_rope_angles_args angles;
  uint32_t offset;  /* first rotated element */
  uint32_t pairing; /* mica_rope_pairing */
};
#endif
