// Weights of type q5_1.
#include "backends/cuda/quant/weight_type.cuh"

MICA_CUDA_PACKED_TYPE(q5_1, Q5_1)
