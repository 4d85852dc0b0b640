// Exchanges between the lanes of a warp, and the PTX instructions that kernels use: rewrite.py
// makes a call of emu::ptx of every asm statement. Asynchronous copies arrive as late as they may,
// and addresses must be aligned, so that what works by luck only does not work here.
#pragma once
#include <cuda_fp16.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "tests/cuda_emulation/machine.h"

namespace emu {

template <class T>
T exchange(const T& value, uint32_t from) {
  static_assert(sizeof(T) <= 32);
  next_exchange();
  std::memcpy(slot(lane()), &value, sizeof value);
  wait_warp();
  T out;
  std::memcpy(&out, slot(from % 32), sizeof out);
  return out;
}
// Everybody's; all[lane].
template <class T>
struct All {
  explicit All(const T& value) {
    next_exchange();
    std::memcpy(slot(lane()), &value, sizeof value);
    wait_warp();
    for (uint32_t i = 0; i < 32; ++i) std::memcpy(&v[i], slot(i), sizeof value);
  }
  T v[32];
};
inline void whole_warp(uint32_t mask) {
  if (mask != 0xffffffffu) stop("a shuffle of a part of a warp");
}

template <class T>
void fresh(T& variable, uint64_t& seen) {
  if (first_of_block(seen)) std::memset(static_cast<void*>(&variable), 0xff, sizeof variable);
}

template <size_t N>
struct Text {
  char s[N];
  constexpr Text(const char (&t)[N]) { std::copy_n(t, N, s); }
  constexpr bool has(std::string_view part) const {
    return std::string_view(s, N - 1).find(part) != std::string_view::npos;
  }
};

inline float tf32_of(uint32_t bits) { return std::bit_cast<float>(bits & ~0x1fffu); }
inline float half_of(uint32_t word, int i, bool bf16) {
  const uint16_t bits = static_cast<uint16_t>(word >> 16 * i);
  if (bf16) return std::bit_cast<float>(uint32_t{bits} << 16);
  return __half2float(std::bit_cast<__half>(bits));
}

// c [16 x 8] += a [16 x k] b [k x 8], k = 8 (TF32) or 16; sums in double.
template <bool kTf32>
void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bf16) {
  struct Operands {
    uint32_t a[4], b[2];
  };
  const All<Operands> all({{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  const uint32_t lane = emu::lane();
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
    double sum = c[i];
    for (uint32_t k = 0; k < (kTf32 ? 8 : 16); ++k) {
      const uint32_t quad = kTf32 ? k % 4 : k % 8 / 2, high = kTf32 ? k / 4 : k / 8;
      const uint32_t x = all.v[row % 8 * 4 + quad].a[row / 8 + 2 * high];
      const uint32_t y = all.v[col * 4 + quad].b[high];
      sum += kTf32 ? double{tf32_of(x)} * tf32_of(y)
                   : double{half_of(x, k % 2, bf16)} * half_of(y, k % 2, bf16);
    }
    c[i] = static_cast<float>(sum);
  }
}

inline void load_matrices(uint32_t (&out)[4], uint32_t address, bool transposed) {
  const All<uint32_t> rows(address);
  const uint32_t lane = emu::lane();
  for (uint32_t m = 0; m < 4; ++m) {
    uint32_t word = 0;
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t row = transposed ? lane % 4 * 2 + i : lane / 4;
      const uint32_t col = transposed ? lane / 4 : lane % 4 * 2 + i;
      if (rows.v[m * 8 + row] % 16 != 0) stop("ldmatrix at an odd address");
      uint16_t h;
      std::memcpy(&h, static_cast<uint16_t*>(from_shared(rows.v[m * 8 + row])) + col, 2);
      word |= uint32_t{h} << 16 * i;
    }
    out[m] = word;
  }
}

template <class P, class... Out>
void load(const P* p, Out&... out) {
  const char* at = reinterpret_cast<const char*>(p);
  const size_t bytes = (sizeof(Out) + ...);
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0) stop("a load at an odd address");
  ((std::memcpy(&out, at, sizeof(Out)), at += sizeof(Out)), ...);
}

template <Text kText, class... A>
void ptx(A&&... args) {
  constexpr auto has = [](std::string_view part) { return kText.has(part); };
  const auto take = [&](auto fn) { fn(args...); };
  if constexpr (has("griddepcontrol") || has("prefetch") || has("fence.")) {
  } else if constexpr (has("createpolicy")) {
    take([](auto& policy) { policy = 0; });
  } else if constexpr (has("ex2.approx")) {
    take([](float& y, float x) { y = std::exp2(x); });
  } else if constexpr (has("cvt.rna.tf32")) {
    take([](uint32_t& y, float x) {
      const auto u = std::bit_cast<uint32_t>(x);
      y = (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & ~0x1fffu;
    });
  } else if constexpr (has("cvt.f32.f16")) {
    take([](float& y, uint16_t x) { y = __half2float(std::bit_cast<__half>(x)); });
  } else if constexpr (has("cvt.rn.f16.f32")) {
    take([](uint16_t& y, float x) { y = std::bit_cast<uint16_t>(__float2half_rn(x)); });
  } else if constexpr (has("cvt.rn.bf16.f32")) {
    take([](uint16_t& y, float x) {
      const auto u = std::bit_cast<uint32_t>(x);
      y = static_cast<uint16_t>(x != x ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16);
    });
  } else if constexpr (has("ldmatrix")) {
    take([&](uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d, uint32_t address) {
      uint32_t out[4];
      load_matrices(out, address, has(".trans"));
      a = out[0], b = out[1], c = out[2], d = out[3];
    });
  } else if constexpr (has("mma.sync.aligned.m16n8k")) {
    take([&](float& c0, float& c1, float& c2, float& c3, uint32_t a0, uint32_t a1, uint32_t a2,
             uint32_t a3, uint32_t b0, uint32_t b1) {
      float c[4] = {c0, c1, c2, c3};
      mma<has(".tf32")>(c, {a0, a1, a2, a3}, {b0, b1}, has(".bf16"));
      c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3];
    });
  } else if constexpr (has("cp.async.cg")) {
    take([&](uint32_t to, const void* from, auto... rest) {
      const uint64_t operands[] = {16, static_cast<uint64_t>(rest)...};  // [size] [policy]
      constexpr bool kHasSize = sizeof...(rest) > (has("cache_hint") ? 1 : 0);
      copy_later(from_shared(to), from, 16, static_cast<uint32_t>(operands[kHasSize ? 1 : 0]));
    });
  } else if constexpr (has("cp.async.commit_group")) {
    commit_copies();
  } else if constexpr (has("cp.async.wait_group")) {
    take([](int n) { wait_copies(static_cast<uint32_t>(n)); });
  } else if constexpr (has("cp.async.bulk.shared")) {
    take([&](uint32_t to, const void* from, uint32_t bytes, uint32_t barrier, auto...) {
      barrier_copy(to, from, bytes, barrier);
    });
  } else if constexpr (has("mbarrier.init")) {
    take([](uint32_t barrier, auto... n) { barrier_init(barrier, (1 + ... + (n - 1))); });
  } else if constexpr (has("mbarrier.arrive.expect_tx")) {
    take([](uint32_t barrier, uint32_t bytes) { barrier_expect(barrier, bytes); });
  } else if constexpr (has("mbarrier.arrive.shared::cta")) {
    take([](uint32_t barrier) { barrier_expect(barrier, 0); });
  } else if constexpr (has("mbarrier.try_wait")) {
    take([](uint32_t barrier, uint32_t parity) {
      while (!barrier_done(barrier, parity)) give_way();
    });
  } else if constexpr (has("cluster_ctarank")) {
    take([](uint32_t& rank) { rank = cluster_rank(); });
  } else if constexpr (has("bar.sync 1,")) {
    take([](int n) { wait_part(static_cast<uint32_t>(n)); });
  } else if constexpr (has("max.NaN.f32")) {
    take([](float& y, float a, float b) { y = a != a ? a : b != b ? b : std::max(a, b); });
  } else if constexpr (has("barrier.cluster")) {
    wait_cluster();
  } else if constexpr (has("mapa.shared")) {
    take([](uint32_t& out, uint32_t at, uint32_t rank) { out = shared_of(at, rank); });
  } else if constexpr (has("ld.shared") && has(".v4.")) {
    take([](auto& a, auto& b, auto& c, auto& d, uint32_t at) {
      load(static_cast<const uint32_t*>(from_shared(at)), a, b, c, d);
    });
  } else if constexpr (has("st.shared.v4.u32")) {
    take([](uint32_t to, auto... words) {
      const uint32_t all[] = {words...};
      if (to % 16 != 0) stop("a store at an odd address");
      std::memcpy(from_shared(to), all, sizeof all);
    });
  } else if constexpr (has("ld.shared")) {
    take([](auto& a, uint32_t at) { load(static_cast<const uint32_t*>(from_shared(at)), a); });
  } else if constexpr (has("ld.global") && has(".v4.")) {
    take([](auto& a, auto& b, auto& c, auto& d, auto* p, auto...) { load(p, a, b, c, d); });
  } else if constexpr (has("ld.global") && has(".v2.")) {
    take([](auto& a, auto& b, auto* p, auto...) { load(p, a, b); });
  } else if constexpr (has("ld.global.u16 h")) {
    take([](uint32_t& a, auto* p) {
      uint16_t h;
      load(p, h);
      a = h;
    });
  } else if constexpr (has("ld.global")) {
    take([](auto& a, auto* p, auto...) { load(p, a); });
  } else {
    stop(kText.s);  // an instruction that is not emulated
  }
}

}  // namespace emu
