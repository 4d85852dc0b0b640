// q5_k in kLayoutRows16: see superblocks.h.
#include "backends/cpu/quant/superblocks.h"

MICA_CPU_BEGIN
using Format = SuperBlocks<5>;
MICA_CPU_ROWS16(q5_k, Format, Format, nullptr)
MICA_CPU_END
