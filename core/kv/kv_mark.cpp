// What a KV cache's sequences held before edits, to go back to. A mark holds no pages: those that
// edits leave free stay as they are until a step or a load writes to them, which forgets it.
#include <algorithm>

#include "core/base/device.h"
#include "core/kv/kv_cache.h"

namespace mica {
namespace {

mica_status check_idle(const mica_kv_cache& c) {
  if (!c.pending) return MICA_OK;
  return c.device->error().fail(MICA_BUSY, "kv cache: a reserve is pending; commit or abandon it");
}

void copy_tables(const mica_kv_cache& c, const KvGroup& g, const Vec<KvSeq>& seqs,
                 const Vec<KvEntry>& from, Vec<KvEntry>& to) {
  for (uint32_t s = 0; s < c.max_seqs; ++s) {
    const size_t at = size_t{s} * g.max_seq_entries;
    std::copy_n(from.data() + at, seqs[s].n_entries, to.data() + at);
  }
}

void hold_and_free(const mica_kv_cache& c, KvGroup& g) {
  std::fill(g.page_refs.begin(), g.page_refs.end(), 0u);
  for (uint32_t s = 0; s < c.max_seqs; ++s)
    for (uint32_t i = 0; i < g.seqs[s].n_entries; ++i) g.hold(g.of(s)[i].page);
  g.free_pages.clear();
  for (uint32_t page = g.n_pages; page-- > 0;)
    if (g.page_refs[page] == 0) (void)g.free_pages.push(static_cast<int32_t>(page));
}

bool make_room(mica_kv_cache& c) {
  bool ok = c.marked_next.resize(3 * size_t{c.max_seqs});
  for (KvGroup& g : c.groups)
    ok = ok && g.marked.resize(g.entries.size()) && g.marked_seqs.resize(c.max_seqs);
  return ok;
}

}  // namespace
}  // namespace mica

extern "C" {

mica_status mica_kv_mark(mica_kv_cache* cache) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  MICA_TRY(mica::check_idle(c));
  if (!mica::make_room(c)) return c.device->error().out_of_memory("kv mark");
  for (mica::KvGroup& g : c.groups) {
    mica::copy_tables(c, g, g.seqs, g.entries, g.marked);
    std::copy(g.seqs.begin(), g.seqs.end(), g.marked_seqs.begin());
  }
  int64_t* out = c.marked_next.data();
  for (const mica::Vec<int64_t>* v : {&c.next, &c.next_key, &c.again})
    out = std::copy(v->begin(), v->end(), out);
  c.is_marked = true;
  return MICA_OK;
}

mica_status mica_kv_undo(mica_kv_cache* cache) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  MICA_TRY(mica::check_idle(c));
  if (!c.is_marked)
    return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv undo: nothing was marked, or a step ",
                                  "or a load since may have written to cells that were free");
  for (mica::KvGroup& g : c.groups) {
    std::copy(g.marked_seqs.begin(), g.marked_seqs.end(), g.seqs.begin());
    mica::copy_tables(c, g, g.seqs, g.marked, g.entries);
    mica::hold_and_free(c, g);
  }
  const int64_t* from = c.marked_next.data();
  for (mica::Vec<int64_t>* v : {&c.next, &c.next_key, &c.again}) {
    std::copy_n(from, c.max_seqs, v->begin());
    from += c.max_seqs;
  }
  return MICA_OK;
}

}  // extern "C"
