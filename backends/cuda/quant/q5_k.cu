// Weights of type q5_k.
#include "backends/cuda/quant/weight_type.cuh"

MICA_CUDA_PACKED_TYPE(q5_k, Q5_K)
