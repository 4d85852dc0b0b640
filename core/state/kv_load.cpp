// Loading sequences into a KV cache. Nothing of a state is trusted: what it counts is compared with
// its bytes and the cache's room before anything is allocated or written. Pages are filled while
// they are free, and adopted with their tables when all of the state was read and is whole.
#include <algorithm>

#include "core/state/kv_state.h"

namespace mica {
namespace {

// The head's words in order; behind its end they are 0 and `ok` is false.
struct In {
  const uint8_t* at;
  const uint8_t* end;
  bool ok = true;

  uint64_t word(uint32_t n_bytes) {
    if (static_cast<uint64_t>(end - at) < n_bytes) {
      ok = false;
      return 0;
    }
    uint64_t v = 0;
    for (uint32_t i = 0; i < n_bytes; ++i) v |= uint64_t{at[i]} << 8 * i;
    at += n_bytes;
    return v;
  }
  uint32_t u32() { return static_cast<uint32_t>(word(4)); }
  int32_t i32() { return static_cast<int32_t>(u32()); }
  uint64_t u64() { return word(8); }
  int64_t i64() { return static_cast<int64_t>(u64()); }
  uint64_t left() const { return static_cast<uint64_t>(end - at); }
};

struct Dtypes {
  mica_dtype k, v;
};

class Load {
 public:
  Load(mica_session& s, uint32_t seq, const mica_kv_reader& reader)
      : session_(s), cache_(*s.cache), error_(s.error()), seq_(seq), reader_(reader),
        head_(s.allocator()), dtypes_(s.allocator()), pages_(s.allocator()), starts_(s.allocator()),
        from_(s.allocator()), to_(s.allocator()), values_(s.allocator()) {}

  mica_status run(uint64_t fingerprint, mica_kv_loaded* out) {
    MICA_TRY(read_head());
    MICA_TRY(check_model(fingerprint));
    MICA_TRY(check_room());
    MICA_TRY(walk_seqs(false));
    MICA_TRY(check_size());
    cache_.is_marked = false;  // free pages are written now, also where the rest turns out wrong
    Checksum sum;
    for (size_t i = 0; i < cache_.layers.size(); ++i) {
      const KvLayer& l = cache_.layers[i];
      if (l.desc.source != MICA_KV_NO_SOURCE) continue;
      MICA_TRY(read_half(l, false, dtypes_[i].k, sum));
      if (l.desc.v_is_k == 0) MICA_TRY(read_half(l, true, dtypes_[i].v, sum));
    }
    MICA_TRY(check_hash(sum, "its K or V"));
    adopt();
    *out = loaded_;
    return MICA_OK;
  }

 private:
  template <class... Parts>
  mica_status bad(Parts... parts) {
    return error_.fail(MICA_BAD_FILE, "kv load: the state ", parts...);
  }
  template <class... Parts>
  mica_status refuse(mica_status status, Parts... parts) {
    return error_.fail(status, "kv load: ", parts...);
  }
  mica_status read(void* dst, uint64_t bytes) {
    const mica_status status = reader_.read(reader_.user, dst, bytes);
    return status == MICA_OK ? status : state_failed(error_, status, "kv load");
  }
  mica_status check_hash(const Checksum& sum, const char* of) {
    uint8_t bytes[kStateHash];
    MICA_TRY(read(bytes, sizeof bytes));
    In in{bytes, bytes + sizeof bytes};
    return in.u64() == sum.value() ? MICA_OK : bad("is damaged: the checksum of ", of, " is wrong");
  }

  mica_status read_head() {
    uint8_t prefix[kStatePrefix];
    if (reader_.bytes < kStatePrefix + 2 * kStateHash)
      return bad("has ", reader_.bytes, " bytes; no KV state is so short");
    MICA_TRY(read(prefix, sizeof prefix));
    if (std::memcmp(prefix, kStateMagic, 8) != 0) return bad("is no KV state of mica");
    In in{prefix + 8, prefix + sizeof prefix};
    const uint32_t version = in.u32();
    keys_ = in.u32();
    const uint64_t head_bytes = in.u64();
    total_ = in.u64();
    if (total_ != reader_.bytes)
      return bad("has ", reader_.bytes, " bytes, and should have ", total_,
                 ": it is truncated or damaged");
    if (head_bytes < kStatePrefix || head_bytes > total_ - 2 * kStateHash)
      return bad("is damaged: its head cannot have ", head_bytes, " bytes");
    if (!head_.resize(head_bytes)) return error_.out_of_memory("kv load");
    std::memcpy(head_.data(), prefix, sizeof prefix);
    MICA_TRY(read(head_.data() + sizeof prefix, head_bytes - sizeof prefix));
    Checksum sum;
    sum.add(head_.data(), head_.size());
    in_ = {head_.data() + sizeof prefix, head_.data() + head_.size()};
    MICA_TRY(check_hash(sum, "its head"));
    return version == kStateVersion
               ? MICA_OK
               : refuse(MICA_UNSUPPORTED, "the state has version ", version,
                        ", this library reads ", kStateVersion, "; save it again");
  }

  mica_status check_model(uint64_t fingerprint) {
    const uint64_t of_state = in_.u64();
    if (in_.ok && of_state != fingerprint)
      return refuse(MICA_INVALID_ARGUMENT, "the state is of another model (its fingerprint is not ",
                    "the one given); load it with the model that it was saved with, or save anew");
    if (keys_ > MICA_KV_KEYS_UNROTATED) return bad("is damaged: it has unknown keys ", keys_);
    if ((keys_ == MICA_KV_KEYS_NONE) != (cache_.keys == MICA_KV_KEYS_NONE))
      return refuse(MICA_INVALID_ARGUMENT, "of state and cache one has keys with RoPE, the other ",
                    "without");
    const uint32_t n_layers = in_.u32();
    const uint32_t n_groups = in_.u32();
    n_seqs_ = in_.u32();
    if (!in_.ok) return bad("is damaged: its head is too short");
    if (n_layers != kv_n_layers(&cache_))
      return refuse(MICA_INVALID_ARGUMENT, "the state is of a model with ", n_layers,
                    " cached layers, the cache has ", kv_n_layers(&cache_));
    if (n_groups != kv_n_groups(&cache_)) return bad("is damaged: it has ", n_groups, " groups");
    for (uint32_t i = 0; i < n_layers; ++i) MICA_TRY(check_layer(i));
    const bool was_plain = keys_ == MICA_KV_KEYS_UNROTATED;
    loaded_.converted |= was_plain != (cache_.keys == MICA_KV_KEYS_UNROTATED);
    return MICA_OK;
  }

  mica_status check_layer(uint32_t i) {
    static constexpr const char* kNames[kShapeWords] = {"n_kv_heads", "head_dim_k", "head_dim_v",
                                                        "window",     "n_first",    "source"};
    uint32_t have[kLayerWords];
    uint32_t words[kLayerWords];
    state_layer(cache_.layers[i].desc, have);
    for (uint32_t& w : words) w = in_.u32();
    if (!in_.ok) return bad("is damaged: its head is too short");
    for (uint32_t k = 0; k < kShapeWords; ++k)
      if (words[k] != have[k])
        return refuse(MICA_INVALID_ARGUMENT, "the state is of another model: its layer ", i,
                      " has ", kNames[k], " ", words[k], ", the cache's ", have[k]);
    for (uint32_t k = kShapeWords; k < kLayerWords; ++k) {
      const DtypeDef* def = find_dtype(words[k]);
      if (def == nullptr || def->decode == nullptr || def->encode == nullptr)
        return bad("is damaged: layer ", i, " has a dtype that no cache has");
      loaded_.converted |= words[k] != have[k];
    }
    const Dtypes d = {static_cast<mica_dtype>(words[6]), static_cast<mica_dtype>(words[7])};
    return dtypes_.push(d) ? MICA_OK : error_.out_of_memory("kv load");
  }

  // The state's pages get the pages that are free, from the top of each group's stack.
  mica_status check_room() {
    if (!starts_.push(0)) return error_.out_of_memory("kv load");
    for (const KvGroup& g : cache_.groups) {
      const uint32_t n = in_.u32();
      if (!in_.ok) return bad("is damaged: its head is too short");
      if (n > total_) return bad("is damaged: it has too many pages");
      if (n > g.free_pages.size())
        return refuse(MICA_CACHE_FULL, "the KV cache has no room: the state needs ", n, " pages, ",
                      uint64_t{g.free_pages.size()}, " of ", g.n_pages, " are free");
      for (uint32_t i = 0; i < n; ++i)
        if (!pages_.push({g.free_pages[g.free_pages.size() - 1 - i], 0}))
          return error_.out_of_memory("kv load");
      if (!starts_.push(static_cast<uint32_t>(pages_.size())))
        return error_.out_of_memory("kv load");
    }
    if (seq_ != MICA_KV_ALL_SEQS && n_seqs_ != 1)
      return refuse(MICA_INVALID_ARGUMENT, "the state has ", n_seqs_,
                    " sequences; load it with MICA_KV_ALL_SEQS");
    if (n_seqs_ > cache_.max_seqs)
      return refuse(MICA_CACHE_FULL, "the state has ", n_seqs_, " sequences, the cache room for ",
                    cache_.max_seqs);
    std::fill(cache_.in_step.begin(), cache_.in_step.end(), uint8_t{0});
    return MICA_OK;
  }

  // Once to check the tables, once to make them the cache's.
  mica_status walk_seqs(bool adopt) {
    In in = in_;
    for (uint32_t i = 0; i < n_seqs_; ++i) {
      const uint32_t id = in.u32();
      const uint32_t seq = seq_ == MICA_KV_ALL_SEQS ? id : seq_;
      const int64_t next = in.i64();
      const int64_t next_key = in.i64();
      const int64_t again = in.i64();
      if (!adopt) MICA_TRY(check_seq(in, seq, next, next_key, again));
      for (uint32_t g = 0; g < cache_.groups.size(); ++g) {
        MICA_TRY(adopt ? adopt_table(in, g, seq) : check_table(in, g, seq));
      }
      if (!adopt) continue;
      kv_set_next(cache_, seq, next);
      // Keys of another kind know nothing of where relative ones go on.
      if (keys_ == MICA_KV_KEYS_RELATIVE && cache_.keys == keys_) cache_.next_key[seq] = next_key;
      cache_.again[seq] = again;
    }
    return in.ok && in.left() == 0 ? MICA_OK : bad("is damaged: its head has another length");
  }

  mica_status check_seq(const In& in, uint32_t seq, int64_t next, int64_t next_key, int64_t again) {
    const auto is_position = [](int64_t p) { return p >= 0 && p <= INT32_MAX; };
    if (!in.ok || !is_position(next) || !is_position(next_key) || !is_position(again))
      return bad("is damaged: a sequence cannot go on where it says");
    if (seq >= cache_.max_seqs)
      return refuse(MICA_INVALID_ARGUMENT, "the state has sequence ", seq,
                    ", the cache has max_seqs ", cache_.max_seqs);
    if (cache_.in_step[seq] != 0) return bad("is damaged: it has sequence ", seq, " twice");
    cache_.in_step[seq] = 1;
    bool empty = cache_.next[seq] == 0;
    for (const KvGroup& g : cache_.groups) empty &= g.seqs[seq].n_entries == 0;
    if (!empty)
      return refuse(MICA_INVALID_ARGUMENT, "sequence ", seq, " is not empty; remove it first");
    ++loaded_.n_seqs;
    return MICA_OK;
  }

  KvEntry read_entry(In& in) const {
    KvEntry e{};
    for (int32_t* w :
         {&e.page, &e.first_cell, &e.n_cells, &e.base, &e.div, &e.key_base, &e.key_div})
      *w = in.i32();
    if (kv_fits_anywhere(cache_, e)) e.key_base = e.base;
    if (cache_.keys == MICA_KV_KEYS_NONE) e.key_div = e.div;
    return e;
  }

  mica_status check_table(In& in, uint32_t group, uint32_t seq) {
    const KvGroup& g = cache_.groups[group];
    const uint32_t n = in.u32();
    const int64_t lost_from = in.i64();
    const int64_t lost_to = in.i64();
    constexpr int64_t kMostLost = int64_t{1} << 40;
    if (!in.ok || n > in.left() / kEntryBytes || lost_from < 0 || lost_from > kMostLost ||
        lost_to < 0 || lost_to > kMostLost)
      return bad("is damaged: a table of sequence ", seq, " cannot be");
    if (n > g.max_seq_entries)
      return refuse(MICA_CACHE_FULL, "the KV cache has no room: sequence ", seq, " would have ", n,
                    " table entries, ", g.max_seq_entries, " is the most");
    int64_t before = 0;
    for (uint32_t i = 0; i < n; ++i) {
      const KvEntry e = read_entry(in);
      if (!is_entry(e, starts_[group + 1] - starts_[group]) || e.first() < before)
        return bad("is damaged: entry ", i, " of sequence ", seq, " cannot be");
      before = e.last();
      pages_[starts_[group] + static_cast<uint32_t>(e.page)].cells |= e.cells();
      if (group == 0) loaded_.n_cells += static_cast<uint64_t>(e.n_cells);
      loaded_.needs_shift |= kv_needs_shift(cache_, e);
    }
    return MICA_OK;
  }
  static bool is_entry(const KvEntry& e, uint32_t n_pages) {
    const auto fits = [&](int32_t base, int32_t div) {
      return base >= 0 && div > 0 && base <= INT32_MAX - e.n_cells;
    };
    return e.page >= 0 && static_cast<uint32_t>(e.page) < n_pages && e.first_cell >= 0 &&
           e.first_cell < kPageCells && e.n_cells > 0 && e.n_cells <= kPageCells - e.first_cell &&
           fits(e.base, e.div) && fits(e.key_base, e.key_div);
  }

  mica_status adopt_table(In& in, uint32_t group, uint32_t seq) {
    KvGroup& g = cache_.groups[group];
    const uint32_t n = in.u32();
    KvSeq& s = g.seqs[seq];
    s.lost_from = in.i64();
    s.lost_to = in.i64();
    for (uint32_t i = 0; i < n; ++i) {
      KvEntry e = read_entry(in);
      e.page = pages_[starts_[group] + static_cast<uint32_t>(e.page)].page;
      g.step[i] = e;
    }
    kv_replace(g, seq, g.step.data(), n);
    return MICA_OK;
  }

  // Every page has a cell, and all rows are there.
  mica_status check_size() {
    uint64_t bytes = head_.size() + 2 * kStateHash;
    for (const StatePage& p : pages_)
      if (p.cells == 0) return bad("is damaged: it has a page that no sequence has");
    for (size_t i = 0; i < cache_.layers.size(); ++i) {
      const KvLayer& l = cache_.layers[i];
      if (l.desc.source != MICA_KV_NO_SOURCE) continue;
      uint64_t cells = 0;
      for (uint32_t k = starts_[l.group]; k < starts_[l.group + 1]; ++k)
        cells += pages_[k].n_cells();
      bytes += cells * (state_cell_bytes(dtypes_[i].k, l.desc.head_dim_k, l.desc.n_kv_heads) +
                        state_cell_bytes(dtypes_[i].v, state_dim_v(l.desc), l.desc.n_kv_heads));
    }
    return bytes == total_ ? MICA_OK : bad("is damaged: its tables are not of its length");
  }

  // Heads of n_kv_heads of one cell, from the state's dtype to the cache's.
  void convert(const StateHalf& half, mica_dtype from_type, const uint8_t* from, uint8_t* to) {
    const mica_b_kv_desc& d = half.desc;
    const uint64_t from_bytes = state_cell_bytes(from_type, d.head_dim, 1);
    const uint64_t to_bytes = state_cell_bytes(d.dtype, d.head_dim, 1);
    const DtypeDef& a = *find_dtype(static_cast<uint32_t>(from_type));
    const DtypeDef& b = *find_dtype(static_cast<uint32_t>(d.dtype));
    for (uint32_t h = 0; h < d.n_kv_heads; ++h, from += from_bytes, to += to_bytes) {
      if (from_type == d.dtype) {
        std::memcpy(to, from, to_bytes);
        continue;
      }
      a.decode(from, values_.data(), from_bytes / a.info.block_bytes * a.info.block_elems);
      std::fill(values_.begin() + d.head_dim, values_.end(), 0.0f);
      b.encode(values_.data(), to, to_bytes / b.info.block_bytes * b.info.block_elems);
    }
  }

  mica_status read_half(const KvLayer& l, bool is_v, mica_dtype from_type, Checksum& sum) {
    constexpr uint64_t kMostBlock = 256;  // elements of any dtype's
    const StateHalf half = state_half(l, is_v);
    const mica_b_kv_desc& d = half.desc;
    const uint64_t from_cell = state_cell_bytes(from_type, d.head_dim, d.n_kv_heads);
    const uint64_t to_cell = state_cell_bytes(d.dtype, d.head_dim, d.n_kv_heads);
    if (!from_.resize(from_cell * kPageCells) || !to_.resize(to_cell * kPageCells) ||
        !values_.resize(d.head_dim + kMostBlock))
      return error_.out_of_memory("kv load");
    for (uint32_t i = starts_[l.group]; i < starts_[l.group + 1]; ++i) {
      const mica_device& device = *session_.device;
      if (device.context->cancelled()) return refuse(MICA_CANCELLED, "cancelled");
      const uint64_t bytes = pages_[i].n_cells() * from_cell;
      MICA_TRY(read(from_.data(), bytes));
      sum.add(from_.data(), bytes);
      const uint8_t* from = from_.data();
      std::fill(to_.begin(), to_.end(), uint8_t{0});
      for (uint32_t k = 0; k < kPageCells; ++k) {
        if ((pages_[i].cells >> k & 1) == 0) continue;
        convert(half, from_type, from, to_.data() + k * to_cell);
        from += from_cell;
      }
      const uint64_t at = half.offset + static_cast<uint64_t>(pages_[i].page) * half.page_bytes;
      const mica_status status =
          device.backend->kv_pack(device.handle, &d, session_.kv.handle(), at, to_.data());
      if (status != MICA_OK) return state_failed(error_, status, "kv load: writing a page");
    }
    return MICA_OK;
  }

  // Cannot fail: it was checked.
  void adopt() {
    for (uint32_t group = 0; group < cache_.groups.size(); ++group) {
      KvGroup& g = cache_.groups[group];
      for (uint32_t i = starts_[group]; i < starts_[group + 1]; ++i) {
        g.free_pages.pop();
        g.page_end[static_cast<size_t>(pages_[i].page)] =
            kPageCells - __builtin_clzll(pages_[i].cells);
      }
    }
    (void)walk_seqs(true);
  }

  mica_session& session_;
  mica_kv_cache& cache_;
  Error& error_;
  uint32_t seq_;
  const mica_kv_reader& reader_;
  Vec<uint8_t> head_;
  In in_{};                 // from the part of the head that is read next
  Vec<Dtypes> dtypes_;      // of each layer of the state
  Vec<StatePage> pages_;    // group by group, by the state's numbers: the cache's pages
  Vec<uint32_t> starts_;    // of each group in pages_, and the end
  Vec<uint8_t> from_, to_;  // rows of a page
  Vec<float> values_;       // of a head
  uint64_t total_ = 0;
  uint32_t keys_ = 0, n_seqs_ = 0;
  mica_kv_loaded loaded_{};
};

}  // namespace
}  // namespace mica

extern "C" mica_status mica_kv_load_from(mica_session* session, uint32_t seq, uint64_t fingerprint,
                                         const mica_kv_reader* reader, mica_kv_loaded* out) {
  if (out != nullptr) *out = {};
  if (session == nullptr) return MICA_INVALID_ARGUMENT;
  if (reader == nullptr || reader->read == nullptr) return session->error().null("reader");
  MICA_TRY(mica::state_ready(session, seq, "kv load"));
  mica_kv_loaded ignored;
  mica::Load load(*session, seq, *reader);
  return load.run(fingerprint, out != nullptr ? out : &ignored);
}
