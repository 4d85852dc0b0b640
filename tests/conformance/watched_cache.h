// The KV storage of one plan as the boundary shows it: which cells a step may write, whether it
// wrote others, and what it stored.
#pragma once
#include <map>
#include <set>
#include <string>
#include <vector>

#include "mica/backend.h"
#include "tests/conformance/guard.h"

namespace mica::conformance {

class WatchedCache {
 public:
  WatchedCache() = default;
  WatchedCache(const mica_backend& inner, mica_b_device* device, const mica_b_partition& p,
               mica_b_buffer* const* buffers);

  // Remembers what the storage holds. `bytes` of each buffer. Returns why it cannot, or "".
  std::string before_step(const std::map<mica_b_buffer*, uint64_t>& bytes);
  // Says which cell the step changed without being told to ("": none), and what it stored.
  std::string after_step(std::vector<StoredCells>& stored);

 private:
  // K or V of a layer: `n_pages` pages of `page_bytes` from `offset`.
  struct Half {
    mica_b_buffer* buffer;
    uint64_t offset, page_bytes;
    int64_t n_pages;
    mica_b_kv_desc desc;
  };
  struct Append {  // or a kv_shift
    size_t half;   // in halves_
    std::string name;
    uint64_t slots_offset, extent_offset;  // in the step block; of a shift its list
    bool has_extent, is_shift;
    int64_t max;
    std::vector<int32_t> cells;  // that the coming step writes, in the order of its tokens or list
  };
  using Page = std::pair<size_t, int64_t>;  // of halves_, number

  size_t find_half(const mica_b_value& v, mica_b_buffer* buffer, bool is_v);
  bool read_slots(Append& append) const;
  bool read_shifts(Append& shift) const;
  std::vector<unsigned char> rows_of(Page page) const;  // plain rows of 64 cells
  uint64_t cell_bytes(size_t half) const;
  std::string changed_cell(Page page, const std::vector<unsigned char>& before) const;
  std::string changed_elsewhere(const std::set<Page>& written) const;

  const mica_backend* inner_ = nullptr;
  mica_b_device* device_ = nullptr;
  mica_b_buffer* step_ = nullptr;
  std::vector<Half> halves_;
  std::vector<Append> appends_;
  std::map<Page, std::vector<unsigned char>> before_;             // pages the step writes to
  std::map<mica_b_buffer*, std::vector<unsigned char>> storage_;  // as it was
};

}  // namespace mica::conformance
