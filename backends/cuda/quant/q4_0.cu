// Weights of type q4_0.
#include "backends/cuda/quant/weight_type.cuh"

MICA_CUDA_PACKED_TYPE(q4_0, Q4_0)
