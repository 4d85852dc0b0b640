// f16 in kLayoutRows16: see elements.h.
#include "backends/cpu/quant/elements.h"

MICA_CPU_BEGIN
using Format = Elements<WordF16>;
MICA_CPU_ROWS16(f16, Format, Format, nullptr)
MICA_CPU_END
