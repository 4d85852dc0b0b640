// Weights of type bf16.
#include "backends/cuda/quant/weight_type.cuh"

MICA_CUDA_HALF_TYPE(bf16, BF16)
