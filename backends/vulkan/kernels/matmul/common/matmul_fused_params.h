// What the dispatches of fused matmuls get, said once for C++ and GLSL: fields have the same
// offsets in both, each at a multiple of its size.
#ifndef MICA_VULKAN_MATMUL_FUSED_PARAMS_H_
#define MICA_VULKAN_MATMUL_FUSED_PARAMS_H_
#ifdef __cplusplus
#include <cstdint>
namespace mica::vulkan {
#endif

// What is done with the sums.
const uint32_t kStore = 0u;
const uint32_t kAdd = 1u;
const uint32_t kGlu = 2u;  // act(first) * second
const uint32_t kQkv = 3u;  // biases, RoPE, and K and V to the cache

// Push constants: what the loads of weights wait for.
struct FusedPush {
  uint64_t w[3];    // weights
  uint64_t live;    // of m
  uint64_t params;  // FusedParams
  uint32_t k, m;    // elements of a row, columns
  uint32_t n[3];    // rows of the weights; 0: there is none
  uint32_t unused;
};

// In constant memory. Addresses are 0 where there is nothing.
struct FusedParams {
  uint64_t x;
  uint64_t norm;             // the norm's weight, F32
  uint64_t y[3];             // results F32 [n, m]; kQkv: Q's result, the states of K and V
  uint64_t residual;         // kAdd: F32 [n, m]
  uint32_t s_x, s_residual;  // bytes from a column to the next
  float eps;
  uint32_t unused;
  uint64_t slots;       // of kQkv, as all that follow
  uint64_t bias[3];     // F32
  uint64_t angles[2];   // of RoPE of Q and of K: F32 [2 * pairs, m]
  float magnitude[2];   // and what it multiplies by
  uint32_t n_cells[2];  // of the states of K and V
};

#ifdef __cplusplus
}  // namespace mica::vulkan
#endif
#endif
