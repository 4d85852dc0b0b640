// The instructions of sm_90a that matmul_wgmma.cuh is made of: copies of boxes of a matrix to
// shared memory (TMA), barriers that a cluster shares, and products of a whole warpgroup. Numbers
// are the PTX ISA's, sections "Asynchronous Warpgroup Level Matrix Instructions" and "Tensors".
#pragma once
#include <cuda.h>  // CUtensorMap

#include "backends/cuda/quant/device.cuh"

// Set only where code is made for exactly sm_90a: others have no wgmma.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MICA_HAS_WGMMA 1
#else
#define MICA_HAS_WGMMA 0
#endif

namespace mica::cuda {

#if MICA_HAS_WGMMA

// --- Copies --------------------------------------------------------------------------------------

// The box of `map` whose first element is `x` of row `y`; zeros where that is beyond the matrix,
// which count as bytes too.
__device__ inline void copy_box(SharedAddress to, const CUtensorMap& map, int x, int y,
                                SharedAddress barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}
// The same to that place of every block of the cluster in `mask`; each block's own barrier counts.
__device__ inline void copy_box_to_all(SharedAddress to, const CUtensorMap& map, int x, int y,
                                       SharedAddress barrier, uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(barrier), "h"(mask)
      : "memory");
}
__device__ inline void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// --- Barriers ------------------------------------------------------------------------------------

// Of `n` arrivals; otherwise as barrier_init().
__device__ inline void barrier_init(SharedAddress barrier, uint32_t n) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(n) : "memory");
}
// Arrives at the barrier at this place of block `rank` of the cluster. It tells that reads are done
// and releases no writes: a scope as wide as the cluster would cost a fence of the whole device.
__device__ inline void barrier_arrive(SharedAddress barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// --- Registers -----------------------------------------------------------------------------------

// Called by all warps of a warpgroup; n is a multiple of 8.
template <int n>
__device__ inline void drop_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

// --- Products ------------------------------------------------------------------------------------

// What wgmma reads: rows of 128 bytes (64 elements of K), eight of them a swizzle atom of 1024
// bytes that starts at a multiple of 1024, atoms one after the other. Bits 0-13: the address / 16;
// 16-29: the offset between atoms along K / 16, which 128 bytes wide swizzled rows do not use (1);
// 32-45: the offset between atoms along the rows / 16; 62-63: swizzled by 128 bytes (1). To go
// along K inside of an atom is to add to the address: the swizzle is a function of address bits.
__device__ inline uint64_t operand_at(SharedAddress at) {
  return uint64_t{(at & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

// What registers and operands were written before this are seen by the products after it.
__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most n of the groups committed last are under way.
template <int n>
__device__ inline void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}
// Keeps what follows from reading sums before the wait that is above.
template <int n>
__device__ inline void products_settle(float (&c)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

// The places of an instruction's sums among its operands, and these operands.
#define MICA_PLACES_64                                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19" \
  ", %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MICA_PLACES_128                                                                        \
  MICA_PLACES_64                                                                               \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49" \
  ", %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MICA_PLACES_192                                                                        \
  MICA_PLACES_128                                                                              \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81" \
  ", %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define MICA_PLACES_224                                                                    \
  MICA_PLACES_192                                                                          \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110" \
  ", %111"
#define MICA_PLACES_256                                                                        \
  MICA_PLACES_224                                                                              \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126" \
  ", %127"
#define MICA_SUMS_8(c, i)                                                               \
  "+f"((c)[i]), "+f"((c)[i + 1]), "+f"((c)[i + 2]), "+f"((c)[i + 3]), "+f"((c)[i + 4]), \
      "+f"((c)[i + 5]), "+f"((c)[i + 6]), "+f"((c)[i + 7])
#define MICA_SUMS_16(c, i) MICA_SUMS_8(c, i), MICA_SUMS_8(c, i + 8)
#define MICA_SUMS_32(c, i) MICA_SUMS_16(c, i), MICA_SUMS_16(c, i + 16)
#define MICA_SUMS_OF_64(c) MICA_SUMS_32(c, 0)
#define MICA_SUMS_OF_128(c) MICA_SUMS_OF_64(c), MICA_SUMS_32(c, 32)
#define MICA_SUMS_OF_192(c) MICA_SUMS_OF_128(c), MICA_SUMS_32(c, 64)
#define MICA_SUMS_OF_224(c) MICA_SUMS_OF_192(c), MICA_SUMS_16(c, 96)
#define MICA_SUMS_OF_256(c) MICA_SUMS_OF_224(c), MICA_SUMS_16(c, 112)

// After the sums: a, b, and whether the sums so far are added. 1, 1: neither is negated; 0, 0: both
// are stored along K.
#define MICA_PRODUCT(type, width, i_a, i_b, i_add)                                     \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #i_add                         \
               ", 0;\n"                                                                \
               "wgmma.mma_async.sync.aligned.m64n" #width "k16.f32." #type "." #type   \
               " {" MICA_PLACES_##width "}, %" #i_a ", %" #i_b ", add, 1, 1, 0, 0;\n}" \
               : MICA_SUMS_OF_##width(c)                                               \
               : "l"(a), "l"(b), "r"(add))
#define MICA_PRODUCT_OF(width, i_a, i_b, i_add)                                       \
  if constexpr (kWidth == width && kBf16) MICA_PRODUCT(bf16, width, i_a, i_b, i_add); \
  if constexpr (kWidth == width && !kBf16) MICA_PRODUCT(f16, width, i_a, i_b, i_add)

// c [64 x kWidth] = a [64 x 16] b [kWidth x 16]^T, plus c if `add`; by a warpgroup. Of warp w and
// lane 4 g + t, c[4 j + e] is row 16 w + g + e / 2 * 8, column 8 j + 2 t + e % 2.
template <int kWidth, bool kBf16>
__device__ inline void product(float (&c)[kWidth / 2], uint64_t a, uint64_t b, int add) {
  static_assert(kWidth == 64 || kWidth == 128 || kWidth == 192 || kWidth == 224 || kWidth == 256);
  MICA_PRODUCT_OF(64, 32, 33, 34);
  MICA_PRODUCT_OF(128, 64, 65, 66);
  MICA_PRODUCT_OF(192, 96, 97, 98);
  MICA_PRODUCT_OF(224, 112, 113, 114);
  MICA_PRODUCT_OF(256, 128, 129, 130);
}

#endif  // MICA_HAS_WGMMA

}  // namespace mica::cuda
