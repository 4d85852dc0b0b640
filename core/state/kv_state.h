// The format of saved KV states, for kv_save.cpp and kv_load.cpp.
//   head   8 bytes of magic, u32 version, u32 keys, u64 bytes of the head, u64 bytes in all,
//          u64 fingerprint, u32 layers, groups, sequences;
//          of each layer 8 u32: kLayerWords; of each group u32: pages;
//          of each sequence u32 id, i64 next, next_key, again, then of each group u32 entries,
//          i64 lost_from, lost_to, and of each entry 7 i32: KvEntry with `page` counted among the
//          state's pages of the group
//   u64    checksum of the head; up to the bytes in all a head is the same in every version
//   rows   of each layer that owns storage K, then V: of each page of its group the cells that an
//          entry names, in order
//   u64    checksum of the rows
#pragma once
#include "core/base/dtype.h"
#include "core/kv/kv_cache.h"
#include "core/plan/session.h"
#include "mica/kv_state.h"

namespace mica {

constexpr char kStateMagic[] = "MICAKV\r\n";  // a transfer as text would damage it
constexpr uint32_t kStateVersion = 1;
constexpr uint64_t kStatePrefix = 32;  // up to the bytes in all
constexpr uint64_t kStateHash = 8;
constexpr uint64_t kEntryBytes = 7 * 4;

// Of the bytes given, however they are cut. For a given state every step is one to one in its word,
// so that a change inside one word of 8 bytes is always found.
class Checksum {
 public:
  void add(const void* data, uint64_t n) {
    const auto* p = static_cast<const uint8_t*>(data);
    n_bytes_ += n;
    for (; n > 0; --n, ++p) {
      for (; shift_ == 0 && n >= 8; n -= 8, p += 8) {
        for (uint32_t i = 0; i < 8; ++i) word_ |= uint64_t{p[i]} << 8 * i;
        mix();
      }
      if (n == 0) break;
      word_ |= uint64_t{*p} << shift_;
      shift_ += 8;
      if (shift_ == 64) mix();
    }
  }
  uint64_t value() const {
    Checksum end = *this;
    end.mix();
    end.word_ = n_bytes_;
    end.mix();
    return end.state_ ^ (end.state_ >> 32);
  }

 private:
  void mix() {
    state_ = (state_ ^ word_) * 0x9e3779b97f4a7c15u;
    state_ = state_ << 29 | state_ >> 35;
    word_ = 0;
    shift_ = 0;
  }
  uint64_t state_ = 0x6d6963612d6b7673u, word_ = 0, n_bytes_ = 0;
  uint32_t shift_ = 0;
};

// A page of a group that a state has, and which of its cells.
struct StatePage {
  int32_t page;
  uint64_t cells;  // one bit each
  uint32_t n_cells() const { return static_cast<uint32_t>(__builtin_popcountll(cells)); }
};

// 0: V is K, and a state has it once.
inline uint32_t state_dim_v(const mica_kv_layer& l) { return l.v_is_k != 0 ? 0 : l.head_dim_v; }
// K or V of a layer that owns storage.
struct StateHalf {
  mica_b_kv_desc desc;
  uint64_t offset, page_bytes;  // in the session's buffer
};
inline StateHalf state_half(const KvLayer& l, bool is_v) {
  const mica_kv_layer& d = l.desc;
  return {{is_v ? d.dtype_v : d.dtype_k, is_v ? d.head_dim_v : d.head_dim_k, d.n_kv_heads,
           is_v ? 1u : 0u},
          is_v ? l.place.v_offset : l.place.k_offset,
          is_v ? l.place.v_page_bytes : l.place.k_page_bytes};
}
// Of one cell's plain rows, heads padded to whole blocks. The sizes were checked with the cache:
// no dtype takes more than 4 bytes an element.
inline uint64_t state_cell_bytes(mica_dtype dtype, uint32_t head_dim, uint32_t n_kv_heads) {
  const mica_dtype_info& info = find_dtype(static_cast<uint32_t>(dtype))->info;
  return static_cast<uint64_t>(div_up(head_dim, info.block_elems)) * info.block_bytes * n_kv_heads;
}

// The fields that must be equal in state and cache, then the dtypes of K and V.
constexpr uint32_t kShapeWords = 6;
constexpr uint32_t kLayerWords = 8;
inline void state_layer(const mica_kv_layer& l, uint32_t out[kLayerWords]) {
  const uint32_t words[kLayerWords] = {l.n_kv_heads,
                                       l.head_dim_k,
                                       state_dim_v(l),
                                       l.window,
                                       l.n_first,
                                       l.source,
                                       static_cast<uint32_t>(l.dtype_k),
                                       static_cast<uint32_t>(l.dtype_v)};
  for (uint32_t i = 0; i < kLayerWords; ++i) out[i] = words[i];
}

// Can states be saved and loaded now? `what` begins the text.
mica_status state_ready(const mica_session* s, uint32_t seq, const char* what);
// What a device or a callback answered, with a sentence if it left none.
mica_status state_failed(Error& error, mica_status status, const char* text);

}  // namespace mica
