// Weights of type q8_0.
#include "backends/cuda/quant/weight_type.cuh"

MICA_CUDA_PACKED_TYPE(q8_0, Q8_0)
