// Weights of type q5_0.
#include "backends/cuda/quant/weight_type.cuh"

MICA_CUDA_PACKED_TYPE(q5_0, Q5_0)
