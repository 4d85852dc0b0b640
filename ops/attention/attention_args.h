/* Arguments and operands of the op attention; read by C, C++ and CUDA. */
#ifndef MICA_OPS_ATTENTION_ARGS_H_
#define MICA_OPS_ATTENTION_ARGS_H_
#include <stdint.h>

/* Operands, in order (ops/attention/attention.h). */
enum mica_attention_input {
  MICA_ATTENTION_Q,
  MICA_ATTENTION_K,
  MICA_ATTENTION_V,
  MICA_ATTENTION_POSITIONS,
  MICA_ATTENTION_TABLE,
  MICA_ATTENTION_MASK, /* may be absent, as those behind it */
  MICA_ATTENTION_SINKS,
  MICA_ATTENTION_TURNS, /* F32 [n_rot, max_turns], with an extent or not: of op rope_angles */
  MICA_ATTENTION_INPUTS
};

struct mica_attention_args {
  float scale;       /* never 0: the builder puts 1 / sqrt(head_dim_k) there */
  float softcap;     /* 0: none */
  uint32_t causal;   /* 0 or 1 */
  uint32_t window;   /* 0: none */
  uint32_t n_first;  /* positions below it are seen beside the window */
  uint32_t max_seqs; /* how the table is laid out */
  /* Rotation by the operand `turns`; all 0 without it. */
  uint32_t n_rot;        /* rotated elements of a head: turns' dim[0] */
  uint32_t rope_offset;  /* the first of them */
  uint32_t rope_pairing; /* mica_rope_pairing */
  uint32_t rope_keys;    /* 0: of queries (RELATIVE keys); 1: of keys (UNROTATED) */
};
#endif
