// i32 tensors are never multiplied: they stay plain.
#include "backends/cpu/quant/rows16.h"

MICA_CPU_BEGIN
extern const Rows16 rows16_i32;
const Rows16 rows16_i32 = {1, 4, 0, 0, nullptr, nullptr, nullptr, nullptr, nullptr};
MICA_CPU_END
