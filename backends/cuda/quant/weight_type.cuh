// Defines what the backend can do with a data type; used once in quant/<name>.cu.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_dots.cuh"
#include "backends/cuda/kernels/matmul/matmul_halve.cuh"
#include "backends/cuda/kernels/matmul/matmul_matvec.cuh"
#include "backends/cuda/kernels/matmul/matmul_tiles.cuh"
#include "backends/cuda/quant/rows.cuh"

// A type of quant/types.h.
#define MICA_CUDA_PACKED_TYPE(name, T)                                                           \
  namespace mica::cuda {                                                                         \
  const WeightType weight_##name = {T::kType,      T::kParts,       pack_any<T>,  unpack_any<T>, \
                                    random_any<T>, get_rows_any<T>, naive_any<T>, matvec_any<T>, \
                                    tiles_any<T>,  halve_any<T>};                                \
  }
// F16 and BF16.
#define MICA_CUDA_HALF_TYPE(name, NAME)                                                         \
  namespace mica::cuda {                                                                        \
  using Half = Plain<MICA_##NAME>;                                                              \
  const WeightType weight_##name = {MICA_##NAME,     Half::kParts,          nullptr,            \
                                    nullptr,         random_any<Half>,      get_rows_any<Half>, \
                                    naive_any<Half>, dots_any<MICA_##NAME>, tiles_any<Half>,    \
                                    nullptr};                                                   \
  }
