// How much work a unit of a partition is: for cutting long steps into parts that can be cancelled.
#pragma once
#include "mica/backend.h"

namespace mica::gpu {

// An estimate from the maxima, in multiplications: products and attention count by theirs, and each
// element that is read or written as 200 (what a GPU multiplies while it moves eight bytes).
double work_of(const mica_b_partition& partition, const mica_b_unit& unit);

}  // namespace mica::gpu
