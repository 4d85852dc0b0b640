// Weights of type q4_1.
#include "backends/cuda/quant/weight_type.cuh"

MICA_CUDA_PACKED_TYPE(q4_1, Q4_1)
