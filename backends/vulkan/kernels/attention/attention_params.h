// What the dispatches of attention get, said once for C++ and GLSL: fields have the same offsets in
// both, each at a multiple of its size.
#ifndef MICA_VULKAN_ATTENTION_PARAMS_H_
#define MICA_VULKAN_ATTENTION_PARAMS_H_
#ifdef __cplusplus
#include <cstdint>
namespace mica::vulkan {
#endif

// Bits of the specialization constant kFlags.
const uint32_t kCausal = 1u;
const uint32_t kWindow = 2u;  // there is one
const uint32_t kMasked = 4u;
const uint32_t kMaskF16 = 8u;
const uint32_t kMaskHeads = 16u;  // the mask has a part for each head
const uint32_t kHasSinks = 32u;
const uint32_t kSoftcap = 64u;
const uint32_t kManySeqs = 128u;
const uint32_t kTurns = 256u;        // queries may be rotated
const uint32_t kRotatesKeys = 512u;  // K is stored un-rotated
const uint32_t kKeyHalves = 1024u;   // how its lanes are put together: attention_keys.glsl
const uint32_t kKeysApart = 2048u;

// Push constants: what shaders need first, addresses that differ from layer to layer.
struct AttentionPush {
  uint64_t q, k, v;
  uint64_t positions, table;
  uint64_t live;    // of the tokens; 0: there are n_tokens
  uint64_t result;  // the op's; of the split kernel, its partial ones
  uint64_t params;  // AttentionParams
};
// Of the kernel that merges partial results.
struct AttentionMergePush {
  uint64_t partial, result, table, live, params;
};

// In constant memory. Layers that differ in nothing of it share it.
struct AttentionParams {
  uint64_t mask, sinks, turns;  // 0: there is none
  float scale, softcap;
  uint32_t window, n_first;
  uint32_t max_seqs, n_tokens;  // most of a step
  uint32_t max_entries;         // of the table
  uint32_t n_pages;             // of the cache
  uint32_t n_split_units;       // whose partial results there is room for
  uint32_t mask_columns;
  uint32_t s_q_head, s_q_token, s_mask_token, s_mask_head;  // bytes
  // The rotation of queries, or of K, by rows of `turns`.
  uint32_t max_turns, n_rot, rope_offset, rope_pairing;
};

#ifdef __cplusplus
}  // namespace mica::vulkan
#endif
#endif
