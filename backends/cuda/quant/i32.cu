// Weights of type i32: tables of integers.
#include "backends/cuda/quant/rows.cuh"

namespace mica::cuda {

using Integers = Plain<MICA_I32>;
const WeightType weight_i32 = {
    MICA_I32, Integers::kParts, nullptr, nullptr, random_any<Integers>, get_rows_any<Integers>,
    nullptr,  nullptr,          nullptr, nullptr};

}  // namespace mica::cuda
