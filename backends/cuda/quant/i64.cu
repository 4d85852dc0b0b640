// Weights of type i64: tables of integers.
#include "backends/cuda/quant/rows.cuh"

namespace mica::cuda {

using Integers = Plain<MICA_I64>;
const WeightType weight_i64 = {
    MICA_I64, Integers::kParts, nullptr, nullptr, random_any<Integers>, get_rows_any<Integers>,
    nullptr,  nullptr,          nullptr, nullptr};

}  // namespace mica::cuda
