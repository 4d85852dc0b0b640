// A dummy kernel: y = -x.
#include "backends/cpu/kernel.h"
MICA_CPU_BEGIN
namespace {

const char* supports(const Call&) { return nullptr; }
uint32_t numerics(const Call&) { return MICA_NUM_F32; }
int64_t items(const Call& c, uint32_t) {
  return c.out.dim[0] * c.out.dim[1] * c.out.dim[2] * c.out.dim[3];
}
void run(const Call& c, uint32_t, int64_t first, int64_t end, char*) {
  for (int64_t i = first; i < end; ++i) ((float*)c.out.data)[i] = -((const float*)c.in[0].data)[i];
}

const Kernel rows[] = {
    {"dummy_negate", "", 1, supports, numerics, nullptr, nullptr, items, run, nullptr}};

}  // namespace
MICA_CPU_KERNELS(dummy_negate, rows)
MICA_CPU_END
