/* The paged KV cache: K and V of tokens, shared across heads, layers, steps and sequences.
 *
 * A cell is one token's K and V in one layer; a page is 64 cells. Layers of equal window form a
 * group; a page id names the same 64 cells in every layer of its group. Each sequence has, per
 * group, a table of entries (mica/kv_table.h), each some cells of a page with their positions.
 * Positions belong to entries, so sequences that share a page may hold it at different positions.
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
#include "kv_table.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MICA_KV_NO_SOURCE UINT32_MAX
#define MICA_KV_ALL_SEQS UINT32_MAX

typedef struct mica_kv_layer {
  size_t struct_size;
  uint32_t n_kv_heads;
  uint32_t head_dim_k; /* elements a head; heads are padded to whole blocks in storage */
  uint32_t head_dim_v;
  mica_dtype dtype_k; /* F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1, any mix */
  mica_dtype dtype_v;
  uint32_t window;  /* 0: sees everything; w: a query at p sees positions > p - w */
  uint32_t n_first; /* positions below this stay visible beside the window */
  uint32_t source;  /* the earlier layer whose K and V this one reads, or MICA_KV_NO_SOURCE */
  /* Not 0: V is K as it was before RoPE, so that a cell has one row for both. head_dim and dtype of
   * K and V must be equal, and the cache's keys NONE or UNROTATED. mica_kv_append takes no V, and
   * attention reads K as V; with YaRN's magnitude, which K is stored with, V has it too. */
  uint32_t v_is_k;
} mica_kv_layer;
#define MICA_KV_LAYER_INIT \
  { sizeof(mica_kv_layer), 0, 0, 0, MICA_F16, MICA_F16, 0, 0, MICA_KV_NO_SOURCE, 0 }

/* What RoPE has to do with stored K, and so what a move of cells to other positions takes.
 *   ROTATED   K is stored rotated to its position. Moved cells must be rotated in place by a step
 *             with the op kv_shift (mica_kv_reserve_shift) before their sequence goes on. Of
 *             quantized K each such step adds the error of one more quantization.
 *   RELATIVE  K stays as it was stored: a move edits tables only, and attention rotates the query
 *             by the difference instead. Graphs rotate K to mica_kv.key_positions, which go on from
 *             what the sequence's last cells were stored at. Only mica_kv_seq_div needs a kv_shift
 *             step.
 *   NONE      Positions have no part in stored K: there is no RoPE. Every move edits tables only.
 *   UNROTATED K is stored rotated to position 0 (mica_kv.key_positions), which is not at all but
 *             for YaRN's magnitude, and attention rotates it to its cell's position when it reads
 *             it. Every move, mica_kv_seq_div too, edits tables only.
 * Graphs are the same with all of them: K rotated to mica_kv.key_positions, and its RoPE as
 * mica_attention_params.rope. */
typedef enum mica_kv_keys {
  MICA_KV_KEYS_ROTATED = 0,
  MICA_KV_KEYS_RELATIVE = 1,
  MICA_KV_KEYS_NONE = 2,
  MICA_KV_KEYS_UNROTATED = 3
} mica_kv_keys;

typedef struct mica_kv_params {
  size_t struct_size;
  uint32_t n_layers;
  const mica_kv_layer* layers;
  uint32_t n_cells;         /* cells in all, of the groups without a window; rounded up to pages */
  uint32_t max_seqs;        /* sequence ids are 0 … max_seqs - 1 */
  uint32_t max_step_tokens; /* tokens of one step */
  uint32_t max_entries; /* table entries of one step and group; 0: enough for n_cells and shares */
  mica_kv_keys keys;
  uint32_t max_turns; /* RELATIVE: different moves that one step may meet, "not moved" included; 0:
                         64. UNROTATED: different multiples of 64 positions at which entries of one
                         step may begin; 0: one for each page */
  uint32_t max_seq_cells; /* cells that a sequence's own table has room for; 0: all n_cells. The
                             host keeps about 1 byte for each of them and 2 KiB, for every
                             sequence */
} mica_kv_params;
#define MICA_KV_PARAMS_INIT \
  { sizeof(mica_kv_params), 0, NULL, 0, 1, 512, 0, MICA_KV_KEYS_ROTATED, 0, 0 }

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
 * is the step's value of the plan's n_tokens extent (mica_graph_kv), which need not be set. Tokens
 * whose position a group of layers holds already (mica_kv_seq_rewind) are not stored there again.
 * Errors: CACHE_FULL (pages, table entries or turns; the text says how many are needed and how many
 * there are), INVALID_ARGUMENT (also: the sequence has moved cells that wait for a kv_shift step;
 * positions that are taken), BUSY (a reserve is pending). */
MICA_API mica_status mica_kv_reserve(mica_kv_cache* cache, uint32_t n_spans,
                                     const mica_kv_span* spans);
/* Prepares a step without tokens that rotates K of moved cells in place, of all sequences: a plan
 * with the op kv_shift of every layer that owns storage (ops/kv_shift.h). With `all`, of RELATIVE
 * keys also cells whose queries would be rotated instead; else only what must be. Shared pages are
 * copied first. The step is not cancelled half-way, and one that fails on the device empties the
 * cache. `out_n_cells` (may be NULL) gets how many cells of the first group that touches
 * any: 0 when there is nothing to do, and then nothing is pending. A step may not do all: call
 * until it gives 0. Errors: CACHE_FULL (pages for the copies), INVALID_ARGUMENT, BUSY. */
MICA_API mica_status mica_kv_reserve_shift(mica_kv_cache* cache, int32_t all,
                                           uint64_t* out_n_cells);
/* Adopts the tables of a pending reserve; releases pages no query can see any more. A plan's step
 * that succeeds does this itself: only a program that writes K and V without a plan calls it.
 * Errors: INVALID_ARGUMENT (no reserve is pending), BUSY (its step is running). */
MICA_API mica_status mica_kv_commit(mica_kv_cache* cache);
/* Forgets a reserve that is not going to be run; a plan's step that fails does this itself. Fine
 * when there is none; nothing happens while its step is running. */
MICA_API void mica_kv_abandon(mica_kv_cache* cache);

/* Edits of what is stored; none touches K or V, and one that fails changes nothing. All are refused
 * with BUSY while a reserve is pending. Position ranges are [p0, p1); p0 < 0 means from the start,
 * p1 < 0 to the end. After an edit, even of nothing, a sequence goes on behind its largest
 * position. CACHE_FULL: the sequence would have more table entries than there is room for. */

/* Removes a range of positions from a sequence (or from all: MICA_KV_ALL_SEQS). Later positions
 * stay where they are. Errors: CACHE_FULL; INVALID_ARGUMENT (in a group with a window: what would
 * be left needs cells that the window let go; removing everything always works, and so does
 * mica_kv_seq_rewind). */
MICA_API mica_status mica_kv_seq_rm(mica_kv_cache* cache, uint32_t seq, int64_t p0, int64_t p1);
/* Makes `dst` hold the range of `src` too, sharing pages. Errors: CACHE_FULL; INVALID_ARGUMENT
 * (`dst` holds positions there, or, where every layer has a window, behind there; a window let go
 * what is to be copied). */
MICA_API mica_status mica_kv_seq_cp(mica_kv_cache* cache, uint32_t src, uint32_t dst, int64_t p0,
                                    int64_t p1);
/* As mica_kv_seq_cp, and moved: position p0 of `src` becomes position `to` of `dst`. */
MICA_API mica_status mica_kv_seq_cp_to(mica_kv_cache* cache, uint32_t src, uint32_t dst, int64_t p0,
                                       int64_t p1, int64_t to);
/* Removes every other sequence. */
MICA_API mica_status mica_kv_seq_keep(mica_kv_cache* cache, uint32_t seq);
/* Removes every sequence. */
MICA_API mica_status mica_kv_clear(mica_kv_cache* cache);
/* Moves the cells of a range by `delta` positions; they may pass others, but not come to lie among
 * them. What a moved cell had attended to stays in it. Errors: CACHE_FULL; INVALID_ARGUMENT (a
 * position below 0 or above 2147483646, one that is taken; in a group with a window: the sequence
 * could not go on, as cells that it would see are gone). */
MICA_API mica_status mica_kv_seq_add(mica_kv_cache* cache, uint32_t seq, int64_t p0, int64_t p1,
                                     int64_t delta);
/* Divides the positions of a range by `divisor` >= 1, rounding down, so that several cells may
 * share one (Self-Extend: Jin et al. 2024, arXiv 2401.01325). Errors: as mica_kv_seq_add. */
MICA_API mica_status mica_kv_seq_div(mica_kv_cache* cache, uint32_t seq, int64_t p0, int64_t p1,
                                     int64_t divisor);
/* The next token goes to `position`, which may lie in a gap that was made before later positions;
 * -1: behind the largest one. Errors: INVALID_ARGUMENT (the position is taken; a window let go what
 * it would see). */
MICA_API mica_status mica_kv_seq_seek(mica_kv_cache* cache, uint32_t seq, int64_t position);
/* Removes `position` and what is behind it, and prepares the sequence to go on there even where
 * windows let go cells that the token at `position` would see. `out_from` gets the position from
 * which tokens are to be run again: `position` itself when nothing is missing; else so far before
 * it that the layers with windows, each of which sees its window before it, together see no
 * further. Those tokens are stored only where they are missing; what they give at positions before
 * `position` is not exact, from `position` on it is. Errors: INVALID_ARGUMENT. */
MICA_API mica_status mica_kv_seq_rewind(mica_kv_cache* cache, uint32_t seq, int64_t position,
                                        int64_t* out_from);

/* For edits that are to be made as one, or of which a step that may fail is a part. Mark remembers
 * what all sequences hold, in place of what it remembered before; undo makes them that again. A
 * step that is submitted or committed, and a load, forget it, for they may write to cells that
 * edits left free: nothing is to be undone then. The first mark allocates as much as the sequences'
 * tables take on the host. Errors: BUSY, OUT_OF_MEMORY (mark), INVALID_ARGUMENT (undo: nothing is
 * remembered). */
MICA_API mica_status mica_kv_mark(mica_kv_cache* cache);
MICA_API mica_status mica_kv_undo(mica_kv_cache* cache);

/* Smallest and largest position held, -1 when the sequence is empty; of the first group. */
MICA_API mica_status mica_kv_seq_range(const mica_kv_cache* cache, uint32_t seq, int64_t* out_min,
                                       int64_t* out_max);
/* Position the sequence's next token gets: one past the largest held since its last edit, unless
 * mica_kv_seq_seek or mica_kv_seq_rewind said otherwise; -1 when there is no such sequence. */
MICA_API int64_t mica_kv_seq_next(const mica_kv_cache* cache, uint32_t seq);
/* Cells held by the sequence in the first group, shared ones included; 0 when there is no such
 * sequence. */
MICA_API uint64_t mica_kv_seq_cells(const mica_kv_cache* cache, uint32_t seq);

typedef struct mica_kv_usage {
  uint32_t n_groups;
  uint64_t n_pages; /* of all groups */
  uint64_t n_pages_free;
  uint64_t n_cells_used; /* of the first group: held by a sequence, a shared one counts once; the
                            rest of the pages in use is room that last tokens and edits left,
                            of use to a sequence only where it alone holds the page */
  uint64_t n_cells_used_all; /* of all groups */
} mica_kv_usage;
/* Takes time in proportion to pages and table entries. */
MICA_API mica_status mica_kv_cache_usage(const mica_kv_cache* cache, mica_kv_usage* out_usage);

#ifdef __cplusplus
}
#endif
#endif
