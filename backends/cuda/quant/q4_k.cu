// Weights of type q4_k.
#include "backends/cuda/quant/weight_type.cuh"

MICA_CUDA_PACKED_TYPE(q4_k, Q4_K)
