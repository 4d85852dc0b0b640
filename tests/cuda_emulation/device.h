// What CUDA C++ has beside C++, for a processor: included before every rewritten .cu file. A
// kernel's threads are fibers of one thread (fibers.cpp); whatever waits for others gives way to
// them. Variables in shared memory begin as NaN in every block.
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <limits>
#include <numeric>
#include <type_traits>

#include "tests/cuda_emulation/ptx.h"

#undef __device__
#undef __global__
#undef __host__
#undef __launch_bounds__
#undef __grid_constant__
#undef __align__
#undef __noinline__
#undef __forceinline__
#define __device__
#define __global__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __noinline__
#define __forceinline__ inline
#define __CUDACC__ 1
#define EMU_FRESH(variable)        \
  static uint64_t seen_##variable; \
  ::emu::fresh(variable, seen_##variable)

using std::max;
using std::min;
inline void __syncthreads() { emu::wait_block(); }
inline void __syncwarp() { emu::wait_warp(); }
template <class T>
T __shfl_sync(uint32_t mask, T v, int from) {
  emu::whole_warp(mask);
  return emu::exchange(v, static_cast<uint32_t>(from));
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T v, int bits) {
  return __shfl_sync(mask, v, static_cast<int>(emu::lane()) ^ bits);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T v, unsigned n) {
  const int lane = static_cast<int>(emu::lane()), from = lane - static_cast<int>(n);
  return __shfl_sync(mask, v, from < 0 ? lane : from);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T v, unsigned n) {
  const int lane = static_cast<int>(emu::lane()), from = lane + static_cast<int>(n);
  return __shfl_sync(mask, v, from > 31 ? lane : from);
}
inline uint32_t __ballot_sync(uint32_t mask, int p) {
  emu::whole_warp(mask);
  const emu::All<int> all(p != 0 ? 1 : 0);
  uint32_t out = 0;
  for (uint32_t i = 0; i < 32; ++i) out |= static_cast<uint32_t>(all.v[i]) << i;
  return out;
}
inline int __reduce_add_sync(uint32_t mask, int v) {
  emu::whole_warp(mask);
  const emu::All<int> all(v);
  return std::accumulate(all.v, all.v + 32, 0);
}
inline int __reduce_max_sync(uint32_t mask, int v) {
  emu::whole_warp(mask);
  const emu::All<int> all(v);
  return *std::max_element(all.v, all.v + 32);
}
inline int __reduce_min_sync(uint32_t mask, int v) {
  emu::whole_warp(mask);
  const emu::All<int> all(v);
  return *std::min_element(all.v, all.v + 32);
}
inline int __any_sync(uint32_t mask, int p) { return __ballot_sync(mask, p) != 0; }
inline int __all_sync(uint32_t mask, int p) { return __ballot_sync(mask, p) == 0xffffffffu; }
inline int __syncthreads_or(int p) {
  static int any;
  __syncthreads();
  any = 0;
  __syncthreads();
  any |= p;
  __syncthreads();
  return any;
}
template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p += v;
  return old;
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p = std::min(old, v);
  return old;
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p = std::max(old, v);
  return old;
}
inline void __threadfence() {}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
inline float __uint_as_float(uint32_t u) { return std::bit_cast<float>(u); }
inline uint32_t __float_as_uint(float f) { return std::bit_cast<uint32_t>(f); }
inline int __popc(uint32_t x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __ll2float_rn(long long v) { return static_cast<float>(v); }
inline float __ll2float_rz(long long v) {
  const float f = static_cast<float>(v);
  const auto back = static_cast<__int128>(f);
  return (v < 0 ? back < v : back > v) ? std::nextafter(f, 0.0f) : f;
}
template <class T>
T clamped(float f) {  // half to even; what is beyond the range is the range's end
  const double d = std::nearbyint(double{f});
  if (d >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
  if (d <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  return static_cast<T>(d);
}
inline long long __float2ll_rn(float f) { return clamped<long long>(f); }
inline int __float2int_rn(float f) { return f != f ? 0 : clamped<int>(f); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline uint32_t __cvta_generic_to_shared(const void* p) { return emu::to_shared(p); }
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t select) {
  const uint64_t bytes = a | uint64_t{b} << 32;
  uint32_t out = 0;
  for (uint32_t i = 0; i < 4; ++i)
    out |= static_cast<uint32_t>(bytes >> (select >> 4 * i & 7) * 8 & 255) << 8 * i;
  return out;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i)
    c += static_cast<int8_t>(static_cast<uint32_t>(a) >> 8 * i) *
         static_cast<int8_t>(static_cast<uint32_t>(b) >> 8 * i);
  return c;
}
