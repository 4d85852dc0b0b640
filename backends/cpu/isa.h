// Instruction sets: which there are, which this CPU has, which one to use.
#pragma once
#include <cstddef>

#include "backends/cpu/kernel.h"

namespace mica::cpu {

enum class Isa : uint32_t { plain = 0, avx2 = 1, avx512 = 2 };
constexpr uint32_t kIsas = 3;

// The newest that there are kernels of, as the build chose (MICA_CPU_NEWEST).
Isa isa_newest();
// "plain", "avx2", "avx512".
const char* isa_name(Isa isa);
// False when there is no such name.
bool isa_find(const char* name, Isa& out);

struct CpuInfo {
  Isa best;  // that has kernels; each instruction set includes the ones before it
  Features features;
  char name[64];  // the brand string, "CPU" when there is none
};
CpuInfo cpu_info();

}  // namespace mica::cpu
