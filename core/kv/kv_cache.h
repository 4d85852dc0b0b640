// The paged KV cache: page pools, tables of sequences, and a step's tables while it is pending.
// What the session needs of it; the public functions are in mica/kv_cache.h.
#pragma once
#include "core/base/vec.h"
#include "mica/kv_cache.h"

namespace mica {

constexpr int32_t kPageCells = MICA_KV_PAGE_CELLS;

// Cell first_cell + i of `page` has position floor((base + i) / div); its K is stored as for
// position floor((key_base + i) / key_div).
struct KvEntry {
  int32_t page, first_cell, n_cells, base, div, key_base, key_div;

  // By how many positions queries must be rotated before they meet its K; false: there is no such
  // number, the cells must be rotated themselves.
  bool turn(int64_t* out) const {
    const int64_t by = int64_t{key_base} - base;
    *out = by / div;
    return div == key_div && by % div == 0;
  }
  uint64_t cells() const {  // of the page, one bit each
    return (~uint64_t{0} >> (kPageCells - n_cells)) << first_cell;
  }
  int64_t first() const { return int64_t{base} / div; }  // positions
  int64_t last() const { return (int64_t{base} + n_cells - 1) / div; }
};

// Do b's cells and positions go on where a's end?
inline bool kv_is_next(const KvEntry& a, const KvEntry& b) {
  return a.page == b.page && a.first_cell + a.n_cells == b.first_cell && a.div == b.div &&
         a.base + a.n_cells == b.base && a.key_div == b.key_div &&
         a.key_base + a.n_cells == b.key_base;
}

// Storage of a layer, inside one device buffer of mica_kv_cache_bytes bytes: page i of K is at
// k_offset + i * k_page_bytes.
struct KvPlace {
  uint64_t k_offset, v_offset;  // multiples of 256
  uint64_t k_page_bytes, v_page_bytes;
  uint32_t k_layout, v_layout;  // the backend's kv_layout numbers
  uint32_t n_pages;
};

// To be done in every layer of the group (but those with a source) before the step runs.
struct PageCopy {
  uint32_t group, src, dst;
};

struct KvLayer {
  mica_kv_layer desc;  // `source` is resolved: it names a layer that owns storage
  KvPlace place;
  uint32_t group;
};

// A sequence in one group.
struct KvSeq {
  uint32_t n_entries = 0;
  // Positions released because no later query can see them all lie in [lost_from, lost_to), and so
  // do those that are to be run again.
  int64_t lost_from = 0, lost_to = 0;

  void lose(int64_t from, int64_t to) {
    const bool none = lost_from >= lost_to;
    lost_from = none || from < lost_from ? from : lost_from;
    lost_to = none || to > lost_to ? to : lost_to;
  }
};

// How a span of the pending step gets its cells in a group.
struct KvAppend {
  uint32_t at;          // new entries go before this one; the one before it is the tail
  uint32_t n_held;      // tokens at the span's start whose positions the group holds already
  int32_t copied_page;  // the tail's shared page that a copy replaces, -1: none
  uint32_t n_own;       // the sequence's own entries in that page
  uint32_t n_tail;      // tokens that go behind the tail, in its page
  uint32_t n_in_holes;  // tokens that go to cells of own pages that edits left free
  uint32_t n_holes;     // entries that they take
  uint32_t n_pages;     // whole pages taken for the others
};

// An entry that the pending shift rotates: its page then is `page`.
struct KvShift {
  uint32_t seq, index;
  int32_t page;
};

// Layers of equal window. A page's references are the entries that name it, of all sequences.
struct KvGroup {
  explicit KvGroup(const mica_allocator& a)
      : page_refs(a), page_end(a), page_used(a), page_own(a), free_pages(a), entries(a), seqs(a),
        step(a), table(a), slots(a), appends(a), shifts(a), shifted(a), marked(a), marked_seqs(a) {}
  uint32_t window = 0, n_first = 0;
  uint32_t n_pages = 0;
  uint32_t max_entries = 0;         // of a step's table
  uint32_t max_seq_entries = 0;     // of one sequence
  Vec<uint32_t> page_refs;          // [n_pages]
  Vec<int32_t> page_end;            // [n_pages]: one past the highest cell in use
  mutable Vec<uint64_t> page_used;  // [n_pages], scratch: cells of a sequence or of all, a bit each
  Vec<uint32_t> page_own;           // [n_pages], scratch: entries of one sequence
  Vec<int32_t> free_pages;          // a stack; never grows beyond n_pages
  Vec<KvEntry> entries;             // [max_seqs][max_seq_entries], in use: the first n_entries
  Vec<KvSeq> seqs;                  // [max_seqs]
  // The pending step.
  Vec<KvEntry> step;      // [max_entries], or more: what the table says; scratch of edits
  Vec<int32_t> table;     // mica/kv_table.h says how
  Vec<int32_t> slots;     // [max_step_tokens]
  Vec<KvAppend> appends;  // [max_seqs], one a span
  Vec<int32_t> shifts;    // mica/kv_table.h
  Vec<KvShift> shifted;   // [max_shifts]
  uint32_t n_words = 0, n_rewritten = 0;
  uint32_t n_taken = 0;  // pages from the top of free_pages
  uint32_t max_shifts = 0, n_shifts = 0;
  // What mica_kv_undo goes back to; empty until the first mica_kv_mark.
  Vec<KvEntry> marked;     // as `entries`
  Vec<KvSeq> marked_seqs;  // as `seqs`

  KvEntry* of(uint32_t seq) { return entries.data() + size_t{seq} * max_seq_entries; }
  const KvEntry* of(uint32_t seq) const { return entries.data() + size_t{seq} * max_seq_entries; }
  void hold(int32_t page) { ++page_refs[static_cast<size_t>(page)]; }
  void drop(int32_t page) {
    if (--page_refs[static_cast<size_t>(page)] == 0) (void)free_pages.push(page);
  }
};

}  // namespace mica

struct mica_session;

struct mica_kv_cache {
  explicit mica_kv_cache(const mica_allocator& a)
      : layers(a), groups(a), next(a), next_key(a), again(a), marked_next(a), positions(a),
        key_positions(a), turns(a), turn_rows(a), spans(a), copies(a), copy_seqs(a), in_step(a) {}
  mica_device* device = nullptr;        // referenced
  const mica_session* owner = nullptr;  // one at a time: it has the storage
  uint32_t references = 1;
  uint32_t max_seqs = 0, max_step_tokens = 0, max_turns = 1;
  mica_kv_keys keys = MICA_KV_KEYS_ROTATED;
  uint64_t bytes = 0;
  mica::Vec<mica::KvLayer> layers;
  mica::Vec<mica::KvGroup> groups;
  mica::Vec<int64_t> next;      // [max_seqs]: position of the next token
  mica::Vec<int64_t> next_key;  // [max_seqs]: the one that its K is rotated to
  mica::Vec<int64_t> again;     // [max_seqs]: rewound to there; what is before it may be run again
  bool is_marked = false;       // no page that the marked tables name was written since
  mica::Vec<int64_t> marked_next;  // [3 * max_seqs]: next, next_key, again
  // The pending step. Every list has its full size from creation on: nothing allocates later.
  bool pending = false;
  bool is_shift = false;   // the pending step rotates cells and has no tokens
  bool in_flight = false;  // its step runs: only the session may commit or abandon
  uint32_t n_step_tokens = 0, n_spans = 0, n_copies = 0, n_turns = 0;
  mica::Vec<int32_t> positions;      // [max_step_tokens]
  mica::Vec<int32_t> key_positions;  // [max_step_tokens]
  mica::Vec<int32_t> turns;          // [max_turns]: their positions
  mica::Vec<uint32_t> turn_rows;     // [kTurnRows], of UNROTATED keys: where a turn may be found
  mica::Vec<mica_kv_span> spans;     // [max_seqs]
  mica::Vec<mica::PageCopy> copies;  // [n_groups * max(max_seqs, max_shifts)]
  mica::Vec<uint32_t> copy_seqs;     // of a shift's copies, which sequence each is for
  mica::Vec<uint8_t> in_step;        // [max_seqs]
};

namespace mica {

inline mica_kv_cache* retain(mica_kv_cache* cache) {
  ++cache->references;
  return cache;
}

inline uint32_t kv_n_layers(const mica_kv_cache* c) {
  return static_cast<uint32_t>(c->layers.size());
}
inline uint32_t kv_n_groups(const mica_kv_cache* c) {
  return static_cast<uint32_t>(c->groups.size());
}
inline const mica_kv_layer& kv_layer(const mica_kv_cache* c, uint32_t layer) {
  return c->layers[layer].desc;
}
// Where a layer's K and V are; of a layer with a source: the source's place.
inline const KvPlace& kv_place(const mica_kv_cache* c, uint32_t layer) {
  return c->layers[layer].place;
}

// Tables by the number that graphs and plans know them by.
enum KvTable : uint32_t { kKvPositions, kKvKeyPositions, kKvTurns, kKvTurnRows, kKvGroupTables };
constexpr uint32_t kv_slots_of(uint32_t group) { return kKvGroupTables + 3 * group; }
constexpr uint32_t kv_table_of(uint32_t group) { return kKvGroupTables + 3 * group + 1; }
constexpr uint32_t kv_shifts_of(uint32_t group) { return kKvGroupTables + 3 * group + 2; }
inline uint32_t kv_n_tables(const mica_kv_cache* c) { return kv_slots_of(kv_n_groups(c)); }
// Of the pending reserve, 0 when there is none.
inline uint32_t kv_step_tokens(const mica_kv_cache* c) { return c->pending ? c->n_step_tokens : 0; }
// A table as the step is to have it, only the words in use. The pointers never change.
const int32_t* kv_step_data(const mica_kv_cache* c, uint32_t table, uint32_t* n_words);
// Refuses a step of a plan that lacks a table which the pending reserve needs. `has_table`: of each
// whether the plan reads it.
mica_status kv_check_plan(const mica_kv_cache* c, const uint8_t* has_table);
inline bool kv_has_turns(const mica_kv_cache& c) {
  return c.keys == MICA_KV_KEYS_RELATIVE || c.keys == MICA_KV_KEYS_UNROTATED;
}
// What a position that K is stored as for is divided by: divided by more than any, it is 0.
inline int32_t kv_key_div(const mica_kv_cache& c) {
  return c.keys == MICA_KV_KEYS_UNROTATED ? INT32_MAX : 1;
}
// Is the entry's K, which stays as it is, right wherever its cells are?
inline bool kv_fits_anywhere(const mica_kv_cache& c, const KvEntry& e) {
  return c.keys == MICA_KV_KEYS_NONE ||
         (c.keys == MICA_KV_KEYS_UNROTATED && e.key_div == INT32_MAX);
}
// Is the entry's K stored as for other positions than those that queries are made for?
inline bool kv_is_moved(const mica_kv_cache& c, const KvEntry& e) {
  if (c.keys == MICA_KV_KEYS_UNROTATED) return e.key_div != INT32_MAX;
  return c.keys != MICA_KV_KEYS_NONE && (e.base != e.key_base || e.div != e.key_div);
}
// Must the entry's K be rotated before a query meets it?
inline bool kv_needs_shift(const mica_kv_cache& c, const KvEntry& e) {
  int64_t by = 0;
  return kv_is_moved(c, e) && !(c.keys == MICA_KV_KEYS_RELATIVE && e.turn(&by));
}
void kv_adopt_shift(mica_kv_cache& c);
// The sequence goes on at `next`. K of its next token is rotated as that of the cell before it.
void kv_set_next(mica_kv_cache& c, uint32_t seq, int64_t next);
// One past the last of the positions from `from` on that the group holds without a gap.
int64_t kv_held_until(const KvGroup& g, uint32_t seq, int64_t from);
// Keys farther than this would have angles that are not exact to F32 (ops/rope.h).
constexpr int64_t kMostKey = int64_t{1} << 20;
constexpr uint32_t kTurnRows = 1024;
// Rows of turns that every step has: row 0, not moved, or those of offsets.
inline uint32_t kv_first_turns(const mica_kv_cache& c) {
  return c.keys == MICA_KV_KEYS_UNROTATED ? MICA_KV_OFFSET_TURNS : 1;
}
// The sequence's entries in the group become `entries`, whose pages it must be able to hold.
void kv_replace(KvGroup& g, uint32_t seq, const KvEntry* entries, uint32_t n);
inline const PageCopy* kv_copies(const mica_kv_cache* c, uint32_t* n) {
  *n = c->pending ? c->n_copies : 0;
  return c->copies.data();
}

}  // namespace mica
