// q5_k: d * scale * q - dmin * min. Plane s: k_scales.glsl.
#define W_BITS 4
#define W_HIGH_BITS 1
#define W_HALVES 0
#define W_ZERO 0
#define W_BIAS 1
#include "quant/k_scales.glsl"
