// q5_1 in kLayoutRows16: see nibbles.h.
#include "backends/cpu/quant/nibbles.h"

MICA_CPU_BEGIN
using Format = Nibbles<5, true>;
MICA_CPU_ROWS16(q5_1, Format, Format, nullptr)
MICA_CPU_END
