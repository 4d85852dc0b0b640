// q4_0 in kLayoutRows16: see nibbles.h.
#include "backends/cpu/quant/nibbles.h"

MICA_CPU_BEGIN
using Format = Nibbles<4, false>;
MICA_CPU_ROWS16(q4_0, Format, Format, nullptr)
MICA_CPU_END
