// cpuid and xgetbv: what the CPU has and the system saves.
#include "backends/cpu/isa.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace mica::cpu {
namespace {

constexpr const char* kNames[kIsas] = {"plain", "avx2", "avx512"};

#if defined(__x86_64__)

constexpr bool bit(uint32_t word, uint32_t i) { return ((word >> i) & 1u) != 0; }

struct Regs {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Regs cpuid(uint32_t leaf, uint32_t sub) {
  Regs r;
  if (__get_cpuid_count(leaf, sub, &r.a, &r.b, &r.c, &r.d) == 0) r = Regs{};
  return r;
}

// Register state that the system saves on a context switch (XCR0).
uint64_t saved_state() {
  uint32_t lo = 0, hi = 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<uint64_t>(hi) << 32) | lo;
}

void detect(CpuInfo& info) {
  const Regs one = cpuid(1, 0);
  if (!bit(one.c, 27)) return;  // OSXSAVE: xgetbv may be used
  const uint64_t state = saved_state();
  const Regs seven = cpuid(7, 0);
  const Regs seven1 = cpuid(7, 1);
  const bool ymm = (state & 0x6u) == 0x6u;
  const bool fma = bit(one.c, 12), f16c = bit(one.c, 29);
  const bool avx2 = bit(seven.b, 5), bmi2 = bit(seven.b, 8);
  if (!(ymm && fma && f16c && avx2 && bmi2)) return;
  info.best = Isa::avx2;
  const bool zmm = (state & 0xe6u) == 0xe6u;
  const bool f = bit(seven.b, 16), dq = bit(seven.b, 17), bw = bit(seven.b, 30);
  const bool vl = bit(seven.b, 31), vnni = bit(seven.c, 11);
  if (!(zmm && f && dq && bw && vl && vnni)) return;
  info.best = Isa::avx512;
  info.features.avx512_bf16 = bit(seven1.a, 5) ? 1 : 0;
}

void brand(char (&name)[64]) {
  if (cpuid(0x80000000u, 0).a < 0x80000004u) return;
  uint32_t words[12];
  for (uint32_t i = 0; i < 3; ++i) {
    const Regs r = cpuid(0x80000002u + i, 0);
    words[4 * i] = r.a;
    words[4 * i + 1] = r.b;
    words[4 * i + 2] = r.c;
    words[4 * i + 3] = r.d;
  }
  char text[sizeof words + 1] = {};
  std::memcpy(text, words, sizeof words);
  const char* start = text;
  while (*start == ' ') ++start;
  size_t n = std::strlen(start);
  while (n > 0 && start[n - 1] == ' ') --n;
  if (n == 0) return;
  std::memcpy(name, start, n);
  name[n] = '\0';
}

#else

void detect(CpuInfo&) {}
void brand(char (&)[64]) {}

#endif

}  // namespace

Isa isa_newest() { return Isa::MICA_CPU_NEWEST; }

const char* isa_name(Isa isa) { return kNames[static_cast<uint32_t>(isa)]; }

bool isa_find(const char* name, Isa& out) {
  for (uint32_t i = 0; i < kIsas; ++i) {
    if (std::strcmp(name, kNames[i]) != 0) continue;
    out = static_cast<Isa>(i);
    return true;
  }
  return false;
}

CpuInfo cpu_info() {
  CpuInfo info{Isa::plain, Features{}, "CPU"};
  detect(info);
  if (info.best > isa_newest()) info.best = isa_newest();
  brand(info.name);
  return info;
}

}  // namespace mica::cpu
