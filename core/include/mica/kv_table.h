/* The table of a cache group as a step has it: I32 words, read alike by C, C++, CUDA and GLSL.
 *   [0]                              n_seqs of the step (S)
 *   [1 … max_seqs + 1]               first token of each sequence's span; [1 + S] = n_tokens
 *   [max_seqs + 2 … 2*max_seqs + 2]  first entry of each; [max_seqs + 2 + S] = number of entries
 *   [2*max_seqs + 3 + 6*e …]         entry e
 * Cell i of an entry is cell first_cell + i of its page and has position floor((base + i) / div).
 * Entries of a sequence rise in position. `turn`: a row of the step's turns (mica_kv.turns).
 * Of RELATIVE keys, a query is rotated by it before it meets the entry's K; row 0 rotates by
 * nothing. Of UNROTATED keys, rows 0 to 127 are those of their own numbers, and K of a cell is
 * rotated by row `turn`, that of the multiple of 64 at or below the entry's first position, and by
 * the row of how far the cell's position lies behind that multiple. */
#ifndef MICA_KV_TABLE_H_
#define MICA_KV_TABLE_H_

#define MICA_KV_PAGE_CELLS 64

#define MICA_KV_TABLE_SPANS 1
#define MICA_KV_TABLE_STARTS(max_seqs) (2 + (max_seqs))
#define MICA_KV_TABLE_ENTRIES(max_seqs) (3 + 2 * (max_seqs))
#define MICA_KV_ENTRY_WORDS 6
#define MICA_KV_TABLE_WORDS(max_seqs, max_entries) \
  (MICA_KV_TABLE_ENTRIES(max_seqs) + MICA_KV_ENTRY_WORDS * (max_entries))

/* Words of an entry. */
#define MICA_KV_ENTRY_PAGE 0
#define MICA_KV_ENTRY_FIRST_CELL 1
#define MICA_KV_ENTRY_N_CELLS 2
#define MICA_KV_ENTRY_BASE 3
#define MICA_KV_ENTRY_DIV 4
#define MICA_KV_ENTRY_TURN 5

#define MICA_KV_OFFSET_TURNS 128 /* first rows of the turns of UNROTATED keys */

/* The list of a shift step (op kv_shift): word 0 is the number of entries, entry e begins at word
 * 1 + 7*e. Cell i goes from position floor((from + i) / from_div) to floor((to + i) / to_div). */
#define MICA_KV_SHIFT_WORDS 7
#define MICA_KV_SHIFT_PAGE 0
#define MICA_KV_SHIFT_FIRST_CELL 1
#define MICA_KV_SHIFT_N_CELLS 2
#define MICA_KV_SHIFT_FROM 3
#define MICA_KV_SHIFT_FROM_DIV 4
#define MICA_KV_SHIFT_TO 5
#define MICA_KV_SHIFT_TO_DIV 6

#endif
