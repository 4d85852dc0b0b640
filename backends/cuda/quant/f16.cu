// Weights of type f16.
#include "backends/cuda/quant/weight_type.cuh"

MICA_CUDA_HALF_TYPE(f16, F16)
