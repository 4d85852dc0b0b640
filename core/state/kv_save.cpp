// Saving sequences of a KV cache.
#include "core/state/kv_state.h"

namespace mica {

mica_status state_ready(const mica_session* s, uint32_t seq, const char* what) {
  Error& error = s->error();
  const mica_backend& b = *s->device->backend;
  if (b.kv_pack == nullptr || b.kv_unpack == nullptr)
    return error.fail(MICA_UNSUPPORTED, what, ": ", b.name, " has no kv_pack or kv_unpack");
  MICA_TRY(session_ready(s));
  if (s->cache == nullptr)
    return error.fail(MICA_INVALID_ARGUMENT, what, ": the session has no KV cache");
  if (s->kv.handle() == nullptr)
    return error.fail(MICA_INVALID_ARGUMENT, what, ": allocate the session first");
  if (s->cache->pending)
    return error.fail(MICA_BUSY, what, ": a reserve is pending; commit or abandon it");
  if (seq != MICA_KV_ALL_SEQS && seq >= s->cache->max_seqs)
    return error.fail(MICA_INVALID_ARGUMENT, what, ": sequence ", seq, " of a cache with max_seqs ",
                      s->cache->max_seqs);
  error.clear();
  return MICA_OK;
}

mica_status state_failed(Error& error, mica_status status, const char* text) {
  if (error.code() == status) return status;
  return error.fail(status, text, ": ", mica_status_text(status));
}

namespace {

class Save {
 public:
  Save(mica_session& s, uint32_t seq)
      : session_(s), cache_(*s.cache), seq_(seq), index_(s.allocator()), pages_(s.allocator()),
        starts_(s.allocator()), head_(s.allocator()), rows_(s.allocator()) {}

  mica_status prepare(uint64_t fingerprint) {
    return find_pages() && write_head(fingerprint) ? MICA_OK
                                                   : session_.error().out_of_memory("kv save");
  }
  uint64_t bytes() const { return bytes_; }

  mica_status write(const mica_kv_writer& writer) {
    Checksum sum;
    sum.add(head_.data(), head_.size());
    MICA_TRY(put(writer, head_.data(), head_.size()));
    MICA_TRY(put_hash(writer, sum));
    Checksum rows;
    for (const KvLayer& l : cache_.layers) {
      if (l.desc.source != MICA_KV_NO_SOURCE) continue;
      MICA_TRY(write_half(writer, l, false, rows));
      if (l.desc.v_is_k == 0) MICA_TRY(write_half(writer, l, true, rows));
    }
    return put_hash(writer, rows);
  }

 private:
  bool is_saved(uint32_t seq) const {
    if (seq_ != MICA_KV_ALL_SEQS) return seq == seq_;
    bool any = cache_.next[seq] != 0;
    for (const KvGroup& g : cache_.groups) any |= g.seqs[seq].n_entries > 0;
    return any;
  }

  // Numbers the pages that the sequences hold, in each group from 0.
  bool find_pages() {
    size_t n = 0;
    for (const KvGroup& g : cache_.groups) n += g.n_pages;
    if (!index_.resize(n) || !pages_.reserve(n) || !starts_.push(0)) return false;
    uint32_t* index = index_.data();  // 1 + the number
    for (const KvGroup& g : cache_.groups) {
      for (uint32_t seq = 0; seq < cache_.max_seqs; ++seq)
        for (uint32_t i = 0; is_saved(seq) && i < g.seqs[seq].n_entries; ++i) {
          const KvEntry& e = g.of(seq)[i];
          uint32_t& at = index[e.page];
          if (at == 0) {
            (void)pages_.push({e.page, 0});
            at = static_cast<uint32_t>(pages_.size()) - starts_.back();
          }
          pages_[starts_.back() + at - 1].cells |= e.cells();
        }
      index += g.n_pages;
      if (!starts_.push(static_cast<uint32_t>(pages_.size()))) return false;
    }
    return true;
  }

  bool put(uint64_t value, uint32_t n_bytes) {
    uint8_t bytes[8];
    for (uint32_t i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(value >> 8 * i);
    return head_.append(bytes, n_bytes);
  }
  bool put32(uint64_t value) { return put(value, 4); }
  bool put64(int64_t value) { return put(static_cast<uint64_t>(value), 8); }

  uint64_t n_cells_of(uint32_t group) const {
    uint64_t n = 0;
    for (uint32_t i = starts_[group]; i < starts_[group + 1]; ++i) n += pages_[i].n_cells();
    return n;
  }

  bool write_head(uint64_t fingerprint) {
    uint64_t rows = 0;
    for (const KvLayer& l : cache_.layers) {
      if (l.desc.source != MICA_KV_NO_SOURCE) continue;
      const mica_kv_layer& d = l.desc;
      rows += n_cells_of(l.group) * (state_cell_bytes(d.dtype_k, d.head_dim_k, d.n_kv_heads) +
                                     state_cell_bytes(d.dtype_v, state_dim_v(d), d.n_kv_heads));
    }
    uint32_t n_seqs = 0;
    for (uint32_t seq = 0; seq < cache_.max_seqs; ++seq) n_seqs += is_saved(seq) ? 1 : 0;
    bool ok = head_.append(reinterpret_cast<const uint8_t*>(kStateMagic), 8) &&
              put32(kStateVersion) && put32(cache_.keys) && put64(0) && put64(0) &&
              put(fingerprint, 8) && put32(kv_n_layers(&cache_)) && put32(kv_n_groups(&cache_)) &&
              put32(n_seqs);
    for (const KvLayer& l : cache_.layers) {
      uint32_t words[kLayerWords];
      state_layer(l.desc, words);
      for (const uint32_t w : words) ok = ok && put32(w);
    }
    for (uint32_t g = 0; g < kv_n_groups(&cache_); ++g)
      ok = ok && put32(starts_[g + 1] - starts_[g]);
    for (uint32_t seq = 0; seq < cache_.max_seqs; ++seq)
      if (is_saved(seq)) ok = ok && write_seq(seq);
    if (!ok) return false;
    bytes_ = head_.size() + kStateHash + rows + kStateHash;
    for (uint32_t i = 0; i < 8; ++i) {
      head_[16 + i] = static_cast<uint8_t>(uint64_t{head_.size()} >> 8 * i);
      head_[24 + i] = static_cast<uint8_t>(bytes_ >> 8 * i);
    }
    return true;
  }

  bool write_seq(uint32_t seq) {
    bool ok = put32(seq) && put64(cache_.next[seq]) && put64(cache_.next_key[seq]) &&
              put64(cache_.again[seq]);
    const uint32_t* index = index_.data();
    for (const KvGroup& g : cache_.groups) {
      const KvSeq& s = g.seqs[seq];
      ok = ok && put32(s.n_entries) && put64(s.lost_from) && put64(s.lost_to);
      for (uint32_t i = 0; ok && i < s.n_entries; ++i) {
        const KvEntry& e = g.of(seq)[i];
        for (const int32_t w : {static_cast<int32_t>(index[e.page] - 1), e.first_cell, e.n_cells,
                                e.base, e.div, e.key_base, e.key_div})
          ok = ok && put32(static_cast<uint32_t>(w));
      }
      index += g.n_pages;
    }
    return ok;
  }

  mica_status put(const mica_kv_writer& writer, const void* data, uint64_t bytes) {
    const mica_status status = writer.write(writer.user, data, bytes);
    return status == MICA_OK ? status : state_failed(session_.error(), status, "kv save");
  }
  mica_status put_hash(const mica_kv_writer& writer, const Checksum& sum) {
    uint8_t bytes[kStateHash];
    for (uint32_t i = 0; i < kStateHash; ++i) bytes[i] = static_cast<uint8_t>(sum.value() >> 8 * i);
    return put(writer, bytes, sizeof bytes);
  }

  mica_status write_half(const mica_kv_writer& writer, const KvLayer& l, bool is_v, Checksum& sum) {
    const mica_device& d = *session_.device;
    const StateHalf half = state_half(l, is_v);
    const uint64_t cell =
        state_cell_bytes(half.desc.dtype, half.desc.head_dim, half.desc.n_kv_heads);
    if (!rows_.resize(cell * kPageCells)) return d.error().out_of_memory("kv save");
    for (uint32_t i = starts_[l.group]; i < starts_[l.group + 1]; ++i) {
      if (d.context->cancelled()) return d.error().fail(MICA_CANCELLED, "kv save: cancelled");
      const uint64_t at = half.offset + static_cast<uint64_t>(pages_[i].page) * half.page_bytes;
      const mica_status status =
          d.backend->kv_unpack(d.handle, &half.desc, session_.kv.handle(), at, rows_.data());
      if (status != MICA_OK) return state_failed(d.error(), status, "kv save: reading a page");
      uint64_t n = 0;
      for (uint32_t k = 0; k < kPageCells; ++k) {
        if ((pages_[i].cells >> k & 1) == 0) continue;
        if (n != k) std::memcpy(rows_.data() + n * cell, rows_.data() + k * cell, cell);
        ++n;
      }
      sum.add(rows_.data(), n * cell);
      MICA_TRY(put(writer, rows_.data(), n * cell));
    }
    return MICA_OK;
  }

  mica_session& session_;
  const mica_kv_cache& cache_;
  uint32_t seq_;
  Vec<uint32_t> index_;   // of every page of every group
  Vec<StatePage> pages_;  // group by group
  Vec<uint32_t> starts_;  // of each group in pages_, and the end
  Vec<uint8_t> head_;
  Vec<uint8_t> rows_;  // of a page
  uint64_t bytes_ = 0;
};

}  // namespace
}  // namespace mica

extern "C" {

mica_status mica_kv_save_to(mica_session* session, uint32_t seq, uint64_t fingerprint,
                            const mica_kv_writer* writer) {
  if (session == nullptr) return MICA_INVALID_ARGUMENT;
  if (writer == nullptr || writer->write == nullptr) return session->error().null("writer");
  MICA_TRY(mica::state_ready(session, seq, "kv save"));
  mica::Save save(*session, seq);
  MICA_TRY(save.prepare(fingerprint));
  return save.write(*writer);
}

mica_status mica_kv_state_bytes(mica_session* session, uint32_t seq, uint64_t* out_bytes) {
  if (session == nullptr) return MICA_INVALID_ARGUMENT;
  if (out_bytes == nullptr) return session->error().null("out_bytes");
  MICA_TRY(mica::state_ready(session, seq, "kv save"));
  mica::Save save(*session, seq);
  MICA_TRY(save.prepare(0));
  *out_bytes = save.bytes();
  return MICA_OK;
}

}  // extern "C"
