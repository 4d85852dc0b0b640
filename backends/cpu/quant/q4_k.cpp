// q4_k in kLayoutRows16: see superblocks.h.
#include "backends/cpu/quant/superblocks.h"

MICA_CPU_BEGIN
using Format = SuperBlocks<4>;
MICA_CPU_ROWS16(q4_k, Format, Format, nullptr)
MICA_CPU_END
