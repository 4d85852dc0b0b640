/* Saving and loading what sequences of a KV cache hold: positions, tables, and K and V of the cells
 * in use. The cache is that of a session, which owns the storage and must be allocated. Not while a
 * reserve is pending or a step runs (BUSY). Times and memory: one page at a time goes through host
 * memory.
 *
 * A state is a head and the cells' plain rows, each with a 64-bit checksum, all in little-endian.
 * It guards against damage, not against forgery: a forged state is loaded as long as its tables
 * could be a cache's, whose cells then hold what it says. */
#ifndef MICA_KV_STATE_H_
#define MICA_KV_STATE_H_
#include "kv_cache.h"
#include "session.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where a state goes: called in order, each time with what follows. A status other than OK ends the
 * save with it. */
typedef struct mica_kv_writer {
  mica_status (*write)(void* user, const void* data, uint64_t bytes);
  void* user;
} mica_kv_writer;
/* Where a state comes from: called in order, each time for what follows. */
typedef struct mica_kv_reader {
  mica_status (*read)(void* user, void* dst, uint64_t bytes);
  void* user;
  uint64_t bytes; /* of the whole state */
} mica_kv_reader;

typedef struct mica_kv_loaded {
  uint32_t n_seqs;
  uint64_t n_cells;    /* of the first group; a shared cell counts once for each sequence */
  int32_t converted;   /* non-zero: K or V is not what it was, bit by bit: it had another dtype, or
                          K becomes UNROTATED or was it, and is encoded again */
  int32_t needs_shift; /* non-zero: cells wait for kv_shift steps (mica_kv_reserve_shift): moved
                          ones as where they were saved, or as the state's keys were RELATIVE and
                          the cache's are ROTATED; all of them where one of the two is UNROTATED */
} mica_kv_loaded;

/* Saves one sequence, or all (MICA_KV_ALL_SEQS; pages that they share are there once).
 * `fingerprint` says of which model it is; the caller's choice, and the same number is asked for by
 * the load. The file is written beside its place under a name of its own (path.partPID.N) and takes
 * its place when all of it is on the disk; after a failure what was at `path` still is. Only a
 * regular file is replaced: of a symbolic link the file that it leads to, and the link stays.
 * Errors: INVALID_ARGUMENT, BUSY, OUT_OF_MEMORY, IO (also: what is at `path` is a device, a FIFO, a
 * directory, or a link to nothing), CANCELLED, DEVICE_LOST. */
MICA_API mica_status mica_kv_save(mica_session* session, uint32_t seq, uint64_t fingerprint,
                                  const char* path);
MICA_API mica_status mica_kv_save_to(mica_session* session, uint32_t seq, uint64_t fingerprint,
                                     const mica_kv_writer* writer);
/* Bytes of the state that the same save would write now. */
MICA_API mica_status mica_kv_state_bytes(mica_session* session, uint32_t seq, uint64_t* out_bytes);

/* Loads a state into sequences that are empty: of one sequence into `seq`, or each into the one
 * that it was (MICA_KV_ALL_SEQS). A sequence then goes on as it would have where it was saved, bit
 * by bit when nothing was converted. Layers must be of the same shape; dtypes, n_cells, max_seqs
 * and max_entries may differ, and keys too unless one of the two is NONE. `out` may be NULL. A load
 * that fails leaves the cache as it was; damage of the head is found before anything else. Errors:
 * NOT_FOUND, IO (also: no regular file), BAD_FILE (truncated, damaged, no state), UNSUPPORTED
 * (another version; a backend without kv_pack), INVALID_ARGUMENT (of another model, another
 * fingerprint; a sequence that is not empty or not there), CACHE_FULL, BUSY, OUT_OF_MEMORY,
 * CANCELLED, DEVICE_LOST. */
MICA_API mica_status mica_kv_load(mica_session* session, uint32_t seq, uint64_t fingerprint,
                                  const char* path, mica_kv_loaded* out);
MICA_API mica_status mica_kv_load_from(mica_session* session, uint32_t seq, uint64_t fingerprint,
                                       const mica_kv_reader* reader, mica_kv_loaded* out);

#ifdef __cplusplus
}
#endif
#endif
