// Weights of type q6_k.
#include "backends/cuda/quant/weight_type.cuh"

MICA_CUDA_PACKED_TYPE(q6_k, Q6_K)
