/* The paged KV cache: K and V of tokens, shared across heads, layers, steps and sequences.
 *
 * A cell is one token's K and V in one layer; a page is 64 cells. Layers of equal window form a
 * group; a page id names the same 64 cells in every layer of its group. Each sequence has, per
 * group, a table of entries {page, first_cell, n_cells, base, div}: the i-th cell of an entry has
 * position floor((base + i) / div). Positions belong to entries, so sequences that share a page may
 * hold it at different positions.
 *
 * A step is reserve, run, commit. Reserve writes the tables as they will be after the step; only
 * commit adopts them, so a failed or cancelled step leaves the cache as it was. mica_plan_run (or
 * mica_plan_wait after mica_plan_submit) commits, or when the step fails abandons: a program calls
 * only mica_kv_reserve before it.
 *
 * Not thread-safe: one cache belongs to one session, from its creation to its release. The session
 * owns the storage, so that its release empties every sequence; the cache can then be given to a
 * new session. */
#ifndef MICA_KV_CACHE_H_
#define MICA_KV_CACHE_H_
#include "device.h"
#include "graph.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MICA_KV_PAGE_CELLS 64
#define MICA_KV_NO_SOURCE UINT32_MAX
#define MICA_KV_ALL_SEQS UINT32_MAX

typedef struct mica_kv_layer {
  size_t struct_size;
  uint32_t n_kv_heads;
  uint32_t head_dim_k; /* elements a head; heads are padded to whole blocks in storage */
  uint32_t head_dim_v;
  mica_dtype dtype_k; /* F32 F16 BF16 Q8_0 Q4_0, any mix */
  mica_dtype dtype_v;
  uint32_t window;  /* 0: sees everything; w: a query at p sees positions > p - w */
  uint32_t n_first; /* positions below this stay visible beside the window */
  uint32_t source;  /* the earlier layer whose K and V this one reads, or MICA_KV_NO_SOURCE */
} mica_kv_layer;
#define MICA_KV_LAYER_INIT \
  { sizeof(mica_kv_layer), 0, 0, 0, MICA_F16, MICA_F16, 0, 0, MICA_KV_NO_SOURCE }

typedef struct mica_kv_params {
  size_t struct_size;
  uint32_t n_layers;
  const mica_kv_layer* layers;
  uint32_t n_cells;         /* cells in all, of the groups without a window; rounded up to pages */
  uint32_t max_seqs;        /* sequence ids are 0 … max_seqs - 1 */
  uint32_t max_step_tokens; /* tokens of one step */
  uint32_t max_entries; /* table entries of one step and group; 0: enough for n_cells and shares */
} mica_kv_params;
#define MICA_KV_PARAMS_INIT \
  { sizeof(mica_kv_params), 0, NULL, 0, 1, 512, 0 }

/* Describes a cache on a device; storage is allocated by its session. Errors: INVALID_ARGUMENT,
 * UNSUPPORTED (a dtype the device cannot keep), OUT_OF_MEMORY. */
MICA_API mica_status mica_kv_cache_create(mica_device* device, const mica_kv_params* params,
                                          mica_kv_cache** out_cache);
/* NULL is a no-op. */
MICA_API void mica_kv_cache_release(mica_kv_cache* cache);
/* Device bytes of all pages of all groups. */
MICA_API uint64_t mica_kv_cache_bytes(const mica_kv_cache* cache);

/* Part of a step: `n_tokens` tokens of sequence `seq`, appended at its end. */
typedef struct mica_kv_span {
  uint32_t seq;
  uint32_t n_tokens;
} mica_kv_span;

/* Prepares a step: spans in the order of the step's tokens, each sequence at most once. Their sum
 * is the step's value of the plan's n_tokens extent (mica_graph_kv), which need not be set. Errors:
 * CACHE_FULL (pages or table entries), INVALID_ARGUMENT, BUSY (a reserve is pending). */
MICA_API mica_status mica_kv_reserve(mica_kv_cache* cache, uint32_t n_spans,
                                     const mica_kv_span* spans);
/* Adopts the tables of a pending reserve; releases pages no query can see any more. A plan's step
 * that succeeds does this itself: only a program that writes K and V without a plan calls it.
 * Errors: INVALID_ARGUMENT (no reserve is pending), BUSY (its step is running). */
MICA_API mica_status mica_kv_commit(mica_kv_cache* cache);
/* Forgets a reserve that is not going to be run; a plan's step that fails does this itself. Fine
 * when there is none; nothing happens while its step is running. */
MICA_API void mica_kv_abandon(mica_kv_cache* cache);

/* Edits of what is stored; none touches K or V. All are refused with BUSY while a reserve is
 * pending. Position ranges are [p0, p1); p0 < 0 means from the start, p1 < 0 to the end. */

/* Removes a range of positions from a sequence (or from all: MICA_KV_ALL_SEQS). Later positions
 * stay where they are. Errors: CACHE_FULL (a cut inside a page makes one entry two; tables full);
 * INVALID_ARGUMENT (in a group with a window: what would be left needs cells that the window let
 * go; removing everything always works). */
MICA_API mica_status mica_kv_seq_rm(mica_kv_cache* cache, uint32_t seq, int64_t p0, int64_t p1);
/* Makes `dst` hold the range of `src` too, sharing pages. `dst` must have no position in or after
 * it. Errors: INVALID_ARGUMENT, CACHE_FULL. */
MICA_API mica_status mica_kv_seq_cp(mica_kv_cache* cache, uint32_t src, uint32_t dst, int64_t p0,
                                    int64_t p1);
/* Removes every other sequence. */
MICA_API mica_status mica_kv_seq_keep(mica_kv_cache* cache, uint32_t seq);

/* Smallest and largest position held, -1 when the sequence is empty; of the first group. */
MICA_API mica_status mica_kv_seq_range(const mica_kv_cache* cache, uint32_t seq, int64_t* out_min,
                                       int64_t* out_max);
/* Position the sequence's next token gets: one past the largest held since its last edit; -1 when
 * there is no such sequence. */
MICA_API int64_t mica_kv_seq_next(const mica_kv_cache* cache, uint32_t seq);
/* Cells held by the sequence in the first group, shared ones included; 0 when there is no such
 * sequence. */
MICA_API uint64_t mica_kv_seq_cells(const mica_kv_cache* cache, uint32_t seq);

typedef struct mica_kv_usage {
  uint32_t n_groups;
  uint64_t n_pages; /* of all groups */
  uint64_t n_pages_free;
} mica_kv_usage;
MICA_API mica_status mica_kv_cache_usage(const mica_kv_cache* cache, mica_kv_usage* out_usage);

/* The table of a group as step data: I32 words.
 *   [0]                        n_seqs of the step (S)
 *   [1 … max_seqs + 1]         first token of each sequence's span; [1 + S] = n_tokens
 *   [max_seqs + 2 … 2*max_seqs + 2]  first entry of each; [max_seqs + 2 + S] = number of entries
 *   [2*max_seqs + 3 + 5*e …]   entry e: page, first_cell, n_cells, base, div
 * Entries of a sequence rise in position. */
#define MICA_KV_TABLE_SPANS 1
#define MICA_KV_TABLE_STARTS(max_seqs) (2 + (max_seqs))
#define MICA_KV_TABLE_ENTRIES(max_seqs) (3 + 2 * (max_seqs))
#define MICA_KV_ENTRY_WORDS 5
#define MICA_KV_TABLE_WORDS(max_seqs, max_entries) \
  (MICA_KV_TABLE_ENTRIES(max_seqs) + MICA_KV_ENTRY_WORDS * (max_entries))

#ifdef __cplusplus
}
#endif
#endif
