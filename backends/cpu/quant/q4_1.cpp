// q4_1 in kLayoutRows16: see nibbles.h.
#include "backends/cpu/quant/nibbles.h"

MICA_CPU_BEGIN
using Format = Nibbles<4, true>;
MICA_CPU_ROWS16(q4_1, Format, Format, nullptr)
MICA_CPU_END
