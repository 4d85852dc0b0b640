// Making a KV cache: checks, groups, page pools, places of the layers; and what it holds.
#include "core/kv/kv_cache.h"

#include <algorithm>

#include "core/base/device.h"
#include "core/base/dtype.h"

namespace mica {
namespace {

constexpr uint64_t kPlaceAlign = 256;
constexpr uint64_t kMostPages = INT32_MAX / kPageCells;  // slots are I32

constexpr uint32_t kMostShifts = 1024;  // entries that one shift step rotates
constexpr uint32_t kDefaultTurns = 64;
constexpr uint32_t kMostTurns = 65536;

uint64_t pages_of(uint64_t cells) { return (cells + kPageCells - 1) / kPageCells; }

mica_status check_params(const mica_kv_params& p, Error& error) {
  if (p.struct_size != sizeof(mica_kv_params))
    return error.fail(MICA_INVALID_ARGUMENT, "kv cache: params.struct_size is ",
                      uint64_t{p.struct_size}, ", not ", uint64_t{sizeof(mica_kv_params)});
  if (p.n_layers == 0 || p.layers == nullptr)
    return error.fail(MICA_INVALID_ARGUMENT, "kv cache: there are no layers");
  if (p.max_seqs == 0 || p.max_seqs > INT32_MAX)
    return error.fail(MICA_INVALID_ARGUMENT, "kv cache: max_seqs is ", p.max_seqs,
                      ", not 1 to 2147483647");
  if (p.max_step_tokens == 0 || p.max_step_tokens > INT32_MAX)
    return error.fail(MICA_INVALID_ARGUMENT, "kv cache: max_step_tokens is ", p.max_step_tokens,
                      ", not 1 to 2147483647");
  if (p.keys < MICA_KV_KEYS_ROTATED || p.keys > MICA_KV_KEYS_UNROTATED)
    return error.fail(MICA_INVALID_ARGUMENT, "kv cache: keys is ", static_cast<int64_t>(p.keys),
                      ", no mica_kv_keys");
  if (p.max_turns > kMostTurns)
    return error.fail(MICA_INVALID_ARGUMENT, "kv cache: max_turns is ", p.max_turns,
                      ", more than 65536");
  return MICA_OK;
}

mica_status check_layer(const mica_kv_params& p, uint32_t i, Error& error) {
  const mica_kv_layer& l = p.layers[i];
  const auto fail = [&](auto... parts) {
    return error.fail(MICA_INVALID_ARGUMENT, "kv cache: layer ", i, ": ", parts...);
  };
  if (l.struct_size != sizeof(mica_kv_layer))
    return fail("struct_size is ", uint64_t{l.struct_size}, ", not ",
                uint64_t{sizeof(mica_kv_layer)});
  if (l.n_kv_heads == 0 || l.head_dim_k == 0 || l.head_dim_v == 0)
    return fail("n_kv_heads, head_dim_k and head_dim_v must not be 0");
  for (const bool is_v : {false, true}) {
    const mica_dtype t = is_v ? l.dtype_v : l.dtype_k;
    const DtypeDef* def = find_dtype(static_cast<uint32_t>(t));
    if (def == nullptr || def->encode == nullptr)
      return fail("a cache cannot keep ", is_v ? "V" : "K", " as dtype ", uint64_t{t},
                  def != nullptr ? " (" : "", def != nullptr ? def->info.name : "",
                  def != nullptr ? ")" : "");
  }
  if (l.v_is_k != 0 && (l.head_dim_k != l.head_dim_v || l.dtype_k != l.dtype_v))
    return fail("its V is its K, but head_dim or dtype of the two differ");
  if (l.v_is_k != 0 && p.keys != MICA_KV_KEYS_NONE && p.keys != MICA_KV_KEYS_UNROTATED)
    return fail("its V cannot be its K, which the cache's keys rotate: they must be NONE or ",
                "UNROTATED");
  if (l.window > INT32_MAX || l.n_first > INT32_MAX)
    return fail("window and n_first must be at most 2147483647");
  if (l.source == MICA_KV_NO_SOURCE) return MICA_OK;
  if (l.source >= i) return fail("its source ", l.source, " is not an earlier layer");
  const mica_kv_layer& s = p.layers[l.source];
  if (s.n_kv_heads != l.n_kv_heads || s.head_dim_k != l.head_dim_k ||
      s.head_dim_v != l.head_dim_v || s.dtype_k != l.dtype_k || s.dtype_v != l.dtype_v ||
      s.window != l.window || s.n_first != l.n_first || (s.v_is_k != 0) != (l.v_is_k != 0))
    return fail("heads, dtypes, window, n_first and v_is_k must be those of its source, layer ",
                l.source);
  return MICA_OK;
}

// Also finds its group, or adds it. A layer's source is resolved to the one that owns storage.
mica_status add_layer(mica_kv_cache& c, const mica_kv_params& p, uint32_t i) {
  KvLayer layer{p.layers[i], {}, 0};
  mica_kv_layer& desc = layer.desc;
  if (desc.window == 0) desc.n_first = 0;
  if (desc.source != MICA_KV_NO_SOURCE) {
    const uint32_t root = c.layers[desc.source].desc.source;
    if (root != MICA_KV_NO_SOURCE) desc.source = root;
  }
  size_t g = 0;
  while (g < c.groups.size() &&
         (c.groups[g].window != desc.window || c.groups[g].n_first != desc.n_first))
    ++g;
  layer.group = static_cast<uint32_t>(g);
  if (g == c.groups.size()) {
    KvGroup group(c.device->allocator());
    group.window = desc.window;
    group.n_first = desc.n_first;
    if (!c.groups.push(std::move(group))) return c.device->error().out_of_memory("kv cache");
  }
  return c.layers.push(layer) ? MICA_OK : c.device->error().out_of_memory("kv cache");
}

// A windowed group needs, for every sequence, the pages that window - 1 past cells and a whole step
// can touch, and those of the first cells. It never needs more than a group without a window has.
mica_status size_group(const mica_kv_cache& c, const mica_kv_params& p, KvGroup& g) {
  Error& error = c.device->error();
  bool has_full = false;
  for (const KvGroup& other : c.groups) has_full |= other.window == 0;
  const uint64_t full = pages_of(p.n_cells);
  uint64_t pages = full;
  uint64_t seq_pages = p.max_seq_cells != 0 ? std::min(full, pages_of(p.max_seq_cells)) : full;
  if (g.window != 0) {
    const uint64_t past = uint64_t{g.window} + p.max_step_tokens - 2;
    seq_pages = pages_of(past) + 1 + pages_of(g.n_first);
    pages = seq_pages * p.max_seqs;
    if (has_full && pages > full) pages = full;
  }
  if (pages == 0) return error.fail(MICA_INVALID_ARGUMENT, "kv cache: n_cells is 0");
  if (pages > kMostPages)
    return error.fail(MICA_INVALID_ARGUMENT, "kv cache: ", pages * kPageCells,
                      " cells are more than 2147483584");
  g.n_pages = static_cast<uint32_t>(pages);
  // A cut inside a page makes one entry two; as many cuts as pages, and some in short sequences,
  // are room enough.
  uint64_t per_seq = 2 * seq_pages + 64;
  constexpr uint64_t kMostByDefault = uint64_t{1} << 20;
  uint64_t step = per_seq * p.max_seqs;
  if (step > kMostByDefault) step = per_seq > kMostByDefault ? per_seq : kMostByDefault;
  if (p.max_entries != 0) step = p.max_entries;
  if (per_seq > step) per_seq = step;
  const uint64_t words = MICA_KV_TABLE_WORDS(uint64_t{p.max_seqs}, step);
  if (words > INT32_MAX)
    return error.fail(MICA_INVALID_ARGUMENT, "kv cache: a table of ", step,
                      " entries is too large");
  g.max_entries = static_cast<uint32_t>(step);
  g.max_seq_entries = static_cast<uint32_t>(per_seq);
  g.max_shifts = std::min(g.max_entries, kMostShifts);
  return MICA_OK;
}

mica_status allocate_group(const mica_kv_cache& c, const mica_kv_params& p, KvGroup& g) {
  size_t n_entries = 0;
  // An edit cuts at most two entries, a copy puts those of two sequences together.
  const size_t edited = 2 * size_t{g.max_seq_entries} + 2;
  const size_t words = MICA_KV_TABLE_WORDS(size_t{p.max_seqs}, size_t{g.max_entries});
  const bool ok = checked_mul<size_t>(p.max_seqs, g.max_seq_entries, n_entries) &&
                  g.entries.resize(n_entries) && g.seqs.resize(p.max_seqs) &&
                  g.page_refs.resize(g.n_pages) && g.page_end.resize(g.n_pages) &&
                  g.page_used.resize(g.n_pages) && g.page_own.resize(g.n_pages) &&
                  g.free_pages.resize(g.n_pages) && g.table.resize(words) &&
                  g.step.resize(std::max<size_t>(g.max_entries, edited)) &&
                  g.shifts.resize(1 + size_t{g.max_shifts} * MICA_KV_SHIFT_WORDS) &&
                  g.shifted.resize(g.max_shifts) && g.slots.resize(p.max_step_tokens) &&
                  g.appends.resize(p.max_seqs);
  if (!ok) return c.device->error().out_of_memory("kv cache");
  for (uint32_t i = 0; i < g.n_pages; ++i)
    g.free_pages[i] = static_cast<int32_t>(g.n_pages - 1 - i);
  return MICA_OK;
}

mica_status place_half(mica_kv_cache& c, const mica_kv_layer& l, bool is_v, uint32_t n_pages,
                       uint32_t& layout, uint64_t& page_bytes, uint64_t& offset) {
  Error& error = c.device->error();
  const mica_b_kv_desc desc = {is_v ? l.dtype_v : l.dtype_k, is_v ? l.head_dim_v : l.head_dim_k,
                               l.n_kv_heads, is_v ? 1u : 0u};
  error.clear();
  const mica_status status =
      c.device->backend->kv_layout(c.device->handle, &desc, &layout, &page_bytes);
  if (status != MICA_OK) {
    if (error.code() != MICA_OK) return error.prefix("kv cache");
    return error.fail(status, "kv cache: the device cannot keep ", is_v ? "V" : "K", " as ",
                      find_dtype(static_cast<uint32_t>(desc.dtype))->info.name, " with heads of ",
                      desc.head_dim);
  }
  uint64_t size = 0;
  uint64_t end = 0;
  if (!checked_mul<uint64_t>(page_bytes, n_pages, size) || !checked_add(c.bytes, size, end) ||
      !checked_align(end, kPlaceAlign, end))
    return error.fail(MICA_INVALID_ARGUMENT, "kv cache: its bytes do not fit in 64 bits");
  offset = c.bytes;
  c.bytes = end;
  return MICA_OK;
}

mica_status place_layers(mica_kv_cache& c) {
  for (KvLayer& l : c.layers) {
    KvPlace& place = l.place;
    if (l.desc.source != MICA_KV_NO_SOURCE) {
      place = c.layers[l.desc.source].place;
      continue;
    }
    place.n_pages = c.groups[l.group].n_pages;
    MICA_TRY(place_half(c, l.desc, false, place.n_pages, place.k_layout, place.k_page_bytes,
                        place.k_offset));
    place.v_layout = place.k_layout;
    place.v_page_bytes = place.k_page_bytes;
    place.v_offset = place.k_offset;
    if (l.desc.v_is_k == 0)
      MICA_TRY(place_half(c, l.desc, true, place.n_pages, place.v_layout, place.v_page_bytes,
                          place.v_offset));
  }
  return MICA_OK;
}

// Of UNROTATED keys: the rows of offsets, and one for each page, which cells that lie at a multiple
// of 64 in their sequence never exceed; with some for those that do not.
uint32_t max_page_turns(const mica_kv_cache& c, const mica_kv_params& p) {
  uint64_t pages = 64;
  for (const KvGroup& g : c.groups) pages += g.n_pages;
  if (p.max_turns != 0) pages = p.max_turns;
  return MICA_KV_OFFSET_TURNS + static_cast<uint32_t>(std::min<uint64_t>(pages, kMostTurns));
}

mica_status make_turns(mica_kv_cache& c) {
  const bool unrotated = c.keys == MICA_KV_KEYS_UNROTATED;
  if (!c.turns.resize(c.max_turns) || (unrotated && !c.turn_rows.resize(kTurnRows)))
    return c.device->error().out_of_memory("kv cache");
  for (int32_t i = 0; unrotated && i < MICA_KV_OFFSET_TURNS; ++i)
    c.turns[static_cast<size_t>(i)] = i;
  return MICA_OK;
}

mica_status fill(mica_kv_cache& c, const mica_kv_params& p) {
  Error& error = c.device->error();
  MICA_TRY(check_params(p, error));
  c.max_seqs = p.max_seqs;
  c.max_step_tokens = p.max_step_tokens;
  c.keys = p.keys;
  if (p.keys == MICA_KV_KEYS_RELATIVE) c.max_turns = p.max_turns != 0 ? p.max_turns : kDefaultTurns;
  for (uint32_t i = 0; i < p.n_layers; ++i) {
    MICA_TRY(check_layer(p, i, error));
    MICA_TRY(add_layer(c, p, i));
  }
  for (KvGroup& g : c.groups) MICA_TRY(size_group(c, p, g));
  if (p.keys == MICA_KV_KEYS_UNROTATED) c.max_turns = max_page_turns(c, p);
  MICA_TRY(make_turns(c));
  for (KvGroup& g : c.groups) MICA_TRY(allocate_group(c, p, g));
  size_t n_copies = 0;
  for (const KvGroup& g : c.groups) n_copies += std::max(p.max_seqs, g.max_shifts);
  if (!c.next.resize(p.max_seqs) || !c.next_key.resize(p.max_seqs) || !c.again.resize(p.max_seqs) ||
      !c.key_positions.resize(p.max_step_tokens) || !c.copy_seqs.resize(n_copies) ||
      !c.spans.resize(p.max_seqs) || !c.in_step.resize(p.max_seqs) ||
      !c.positions.resize(p.max_step_tokens) || !c.copies.resize(n_copies))
    return error.out_of_memory("kv cache");
  return place_layers(c);
}

// Cells of the group that a sequence holds.
uint64_t count_cells(const mica_kv_cache& c, const KvGroup& g) {
  std::fill(g.page_used.begin(), g.page_used.end(), uint64_t{0});
  for (uint32_t seq = 0; seq < c.max_seqs; ++seq)
    for (uint32_t i = 0; i < g.seqs[seq].n_entries; ++i)
      g.page_used[static_cast<size_t>(g.of(seq)[i].page)] |= g.of(seq)[i].cells();
  uint64_t n = 0;
  for (const uint64_t cells : g.page_used) n += static_cast<uint64_t>(__builtin_popcountll(cells));
  return n;
}

}  // namespace
}  // namespace mica

using mica::KvEntry;
using mica::KvGroup;

extern "C" {

mica_status mica_kv_cache_create(mica_device* device, const mica_kv_params* params,
                                 mica_kv_cache** out_cache) {
  if (out_cache != nullptr) *out_cache = nullptr;
  if (device == nullptr) return MICA_INVALID_ARGUMENT;
  if (params == nullptr || out_cache == nullptr)
    return device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: params or out_cache are NULL");
  auto* c = mica::create<mica_kv_cache>(device->allocator(), device->allocator());
  if (c == nullptr) return device->error().out_of_memory("kv cache");
  c->device = mica::retain(device);
  const mica_status status = mica::fill(*c, *params);
  if (status != MICA_OK) {
    mica_kv_cache_release(c);
    return status;
  }
  *out_cache = c;
  return MICA_OK;
}

void mica_kv_cache_release(mica_kv_cache* cache) {
  if (cache == nullptr || --cache->references != 0) return;
  mica_device* device = cache->device;
  mica::destroy(device->allocator(), cache);
  mica_device_release(device);
}

uint64_t mica_kv_cache_bytes(const mica_kv_cache* cache) {
  return cache != nullptr ? cache->bytes : 0;
}

mica_status mica_kv_seq_range(const mica_kv_cache* cache, uint32_t seq, int64_t* out_min,
                              int64_t* out_max) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  if (seq >= cache->max_seqs || out_min == nullptr || out_max == nullptr)
    return cache->device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: no sequence ", seq,
                                       ", or nowhere to write its range");
  const KvGroup& g = cache->groups[0];
  const uint32_t n = g.seqs[seq].n_entries;
  *out_min = n > 0 ? g.of(seq)[0].first() : -1;
  *out_max = n > 0 ? g.of(seq)[n - 1].last() : -1;
  return MICA_OK;
}

int64_t mica_kv_seq_next(const mica_kv_cache* cache, uint32_t seq) {
  return cache != nullptr && seq < cache->max_seqs ? cache->next[seq] : -1;
}

uint64_t mica_kv_seq_cells(const mica_kv_cache* cache, uint32_t seq) {
  if (cache == nullptr || seq >= cache->max_seqs) return 0;
  const KvGroup& g = cache->groups[0];
  uint64_t cells = 0;
  for (uint32_t i = 0; i < g.seqs[seq].n_entries; ++i)
    cells += static_cast<uint64_t>(g.of(seq)[i].n_cells);
  return cells;
}

mica_status mica_kv_cache_usage(const mica_kv_cache* cache, mica_kv_usage* out_usage) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  if (out_usage == nullptr) return cache->device->error().null("out_usage");
  *out_usage = {mica::kv_n_groups(cache), 0, 0, 0, 0};
  for (const KvGroup& g : cache->groups) {
    const uint64_t n_cells = mica::count_cells(*cache, g);
    out_usage->n_pages += g.n_pages;
    out_usage->n_pages_free += g.free_pages.size();
    if (&g == cache->groups.begin()) out_usage->n_cells_used = n_cells;
    out_usage->n_cells_used_all += n_cells;
  }
  return MICA_OK;
}

}  // extern "C"
