#include "tests/conformance/watched_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace mica::conformance {
namespace {

constexpr int64_t kPage = MICA_KV_PAGE_CELLS;

const mica_dtype_info& info_of(mica_dtype dtype) { return *mica_dtype_get(dtype); }

// Of each of the first `n_used` values of a block, the distance to the next that the dtype can
// hold; of a quantized block the smallest between two of its values.
void add_steps(mica_dtype dtype, const float* block, uint32_t n, uint32_t n_used,
               std::vector<double>& out) {
  if (n == 1) {
    const double v = std::fabs(static_cast<double>(block[0]));
    const int exponent = v > 0 && std::isfinite(v) ? std::ilogb(v) : 0;
    out.push_back(dtype == MICA_F32   ? std::ldexp(1, exponent - 23)
                  : dtype == MICA_F16 ? std::ldexp(1, std::max(exponent, -14) - 10)
                                      : std::ldexp(1, exponent - 7));
    return;
  }
  std::vector<float> sorted(block, block + n);
  sorted.push_back(0);
  std::sort(sorted.begin(), sorted.end());
  double gap = 0;
  for (size_t k = 1; k < sorted.size(); ++k) {
    const double d = static_cast<double>(sorted[k]) - static_cast<double>(sorted[k - 1]);
    if (d > 0 && (gap == 0 || d < gap)) gap = d;
  }
  out.insert(out.end(), n_used, gap);
}

// A NaN of F32, F16 or BF16 whose quiet bit is not set: conversions set it, so what is stored
// without one of them sets it too.
bool is_signalling(mica_dtype dtype, const unsigned char* element) {
  uint32_t bits = 0;
  std::memcpy(&bits, element, dtype == MICA_F32 ? 4 : 2);
  const uint32_t quiet = dtype == MICA_F32 ? 0x400000 : dtype == MICA_F16 ? 0x200 : 0x40;
  const uint32_t sign = dtype == MICA_F32 ? 0x80000000u : 0x8000u;
  const uint32_t infinite = dtype == MICA_F32 ? 0x7f800000 : dtype == MICA_F16 ? 0x7c00 : 0x7f80;
  return (bits & ~sign) > infinite && (bits & quiet) == 0;
}

// The first element of a cell that is one; "": none.
std::string signalling_in(const std::string& name, mica_dtype dtype, const unsigned char* row,
                          uint32_t n) {
  if (dtype != MICA_F32 && dtype != MICA_F16 && dtype != MICA_BF16) return "";
  for (uint32_t i = 0; i < n; ++i)
    if (is_signalling(dtype, row + i * info_of(dtype).block_bytes))
      return "element " + std::to_string(i) + " of a cell of " + name + " is a signalling NaN";
  return "";
}

}  // namespace

WatchedCache::WatchedCache(const mica_backend& inner, mica_b_device* device,
                           const mica_b_partition& p, mica_b_buffer* const* buffers)
    : inner_(&inner), device_(device), step_(buffers[1]) {
  for (uint32_t i = 1; i < p.n_values; ++i)
    if (p.values[i].storage == MICA_B_STATE) storage_[buffers[p.values[i].buffer]];
  // A layer's appends come in pairs, K's and then V's.
  size_t n_appends = 0;
  for (uint32_t i = 0; i < p.n_nodes; ++i) {
    const mica_b_node& n = p.nodes[i];
    if (n.op != MICA_OP_kv_append && n.op != MICA_OP_kv_shift) continue;
    Append a;
    a.is_shift = n.op == MICA_OP_kv_shift;
    const bool is_v = !a.is_shift && n_appends % 2 != 0;
    const mica_b_value &state = p.values[n.input[0]],
                       &slots = p.values[n.input[a.is_shift ? 1 : 2]];
    a.half = find_half(state, buffers[state.buffer], is_v);
    a.name = a.is_shift ? "shifted K"
                        : std::string(is_v ? "V " : "K ") + std::to_string(n_appends++ / 2);
    a.slots_offset = slots.offset;
    a.has_extent = slots.extent != MICA_B_NONE;
    a.extent_offset = a.has_extent ? p.extents[slots.extent].offset : 0;
    a.max = slots.dim[0];
    appends_.push_back(std::move(a));
  }
}

size_t WatchedCache::find_half(const mica_b_value& v, mica_b_buffer* buffer, bool is_v) {
  for (size_t i = 0; i < halves_.size(); ++i)
    if (halves_[i].buffer == buffer && halves_[i].offset == v.offset) return i;
  Half h{buffer, v.offset, 0, v.dim[2] / kPage, {}};
  h.desc = {v.dtype, static_cast<uint32_t>(v.dim[0]), static_cast<uint32_t>(v.dim[1]), is_v};
  uint32_t layout = 0;
  if (inner_->kv_layout(device_, &h.desc, &layout, &h.page_bytes) != MICA_OK) h.n_pages = 0;
  halves_.push_back(h);
  return halves_.size() - 1;
}

bool WatchedCache::read_shifts(Append& a) const {
  std::vector<int32_t> words(static_cast<size_t>(a.max));
  if (inner_->buffer_read(step_, a.slots_offset, words.data(), words.size() * sizeof(int32_t)) !=
      MICA_OK)
    return false;
  a.cells.clear();
  const int32_t* e = words.data() + 1;
  for (int32_t k = 0; k < words[0]; ++k, e += MICA_KV_SHIFT_WORDS)
    for (int32_t i = 0; i < e[MICA_KV_SHIFT_N_CELLS]; ++i)
      if ((e[MICA_KV_SHIFT_FROM] + i) / e[MICA_KV_SHIFT_FROM_DIV] !=
          (e[MICA_KV_SHIFT_TO] + i) / e[MICA_KV_SHIFT_TO_DIV])
        a.cells.push_back(e[MICA_KV_SHIFT_PAGE] * static_cast<int32_t>(kPage) +
                          e[MICA_KV_SHIFT_FIRST_CELL] + i);
  return true;
}

bool WatchedCache::read_slots(Append& a) const {
  if (a.is_shift) return read_shifts(a);
  int32_t live = static_cast<int32_t>(a.max);
  if (a.has_extent && inner_->buffer_read(step_, a.extent_offset, &live, sizeof live) != MICA_OK)
    return false;
  a.cells.resize(static_cast<size_t>(live));
  return live == 0 || inner_->buffer_read(step_, a.slots_offset, a.cells.data(),
                                          a.cells.size() * sizeof(int32_t)) == MICA_OK;
}

uint64_t WatchedCache::cell_bytes(size_t half) const {
  const mica_b_kv_desc& d = halves_[half].desc;
  const mica_dtype_info& info = info_of(d.dtype);
  return uint64_t{(d.head_dim + info.block_elems - 1) / info.block_elems} * info.block_bytes *
         d.n_kv_heads;
}

std::vector<unsigned char> WatchedCache::rows_of(Page page) const {
  const Half& h = halves_[page.first];
  std::vector<unsigned char> rows(cell_bytes(page.first) * kPage);
  if (inner_->kv_unpack(device_, &h.desc, h.buffer,
                        h.offset + static_cast<uint64_t>(page.second) * h.page_bytes,
                        rows.data()) != MICA_OK)
    rows.clear();
  return rows;
}

std::string WatchedCache::before_step(const std::map<mica_b_buffer*, uint64_t>& bytes) {
  before_.clear();
  for (auto& [buffer, held] : storage_) {
    held.resize(bytes.at(buffer));
    if (inner_->buffer_read(buffer, 0, held.data(), held.size()) != MICA_OK)
      return "the KV storage cannot be read";
  }
  for (Append& a : appends_) {
    if (!read_slots(a)) return "the slots of a kv_append cannot be read";
    for (const int32_t cell : a.cells) {
      const Page page{a.half, cell / kPage};
      if (cell >= 0 && page.second < halves_[a.half].n_pages && before_.count(page) == 0)
        before_[page] = rows_of(page);
    }
  }
  return "";
}

// Of a page that the step writes to, the first cell that it changed though no append names it.
std::string WatchedCache::changed_cell(Page page, const std::vector<unsigned char>& before) const {
  const std::vector<unsigned char> after = rows_of(page);
  const auto bytes = static_cast<int64_t>(cell_bytes(page.first));
  std::string name;
  std::set<int64_t> allowed;
  for (const Append& a : appends_) {
    if (a.half != page.first) continue;
    name = a.name;
    for (const int32_t cell : a.cells)
      if (cell / kPage == page.second) allowed.insert(cell % kPage);
  }
  if (after.empty() || before.empty()) return "kv_unpack of " + name + " fails";
  for (int64_t cell = 0; cell < kPage; ++cell)
    if (allowed.count(cell) == 0 &&
        !std::equal(after.begin() + cell * bytes, after.begin() + (cell + 1) * bytes,
                    before.begin() + cell * bytes))
      return "cell " + std::to_string(page.second * kPage + cell) + " of " + name +
             " was changed, and the step does not name it";
  return "";
}

// The first byte of the storage that changed outside the pages that the step writes to.
std::string WatchedCache::changed_elsewhere(const std::set<Page>& written) const {
  for (const auto& [buffer, before] : storage_) {
    std::vector<unsigned char> after(before.size());
    if (inner_->buffer_read(buffer, 0, after.data(), after.size()) != MICA_OK)
      return "the KV storage cannot be read";
    for (const auto& [half, page] : written) {
      const Half& h = halves_[half];
      if (h.buffer != buffer) continue;
      const uint64_t at = h.offset + static_cast<uint64_t>(page) * h.page_bytes;
      std::copy_n(before.begin() + static_cast<int64_t>(at), h.page_bytes,
                  after.begin() + static_cast<int64_t>(at));
    }
    if (before == after) continue;
    const auto differs = std::mismatch(before.begin(), before.end(), after.begin()).first;
    return "byte " + std::to_string(differs - before.begin()) +
           " of the KV storage was changed, in a page that the step does not name";
  }
  return "";
}

std::string WatchedCache::after_step(std::vector<StoredCells>& stored) {
  std::set<Page> written;
  for (const auto& [page, before] : before_) {
    written.insert(page);
    if (const std::string why = changed_cell(page, before); !why.empty()) return why;
  }
  if (const std::string why = changed_elsewhere(written); !why.empty()) return why;
  for (const Append& a : appends_) {
    const mica_b_kv_desc& d = halves_[a.half].desc;
    const mica_dtype_info& info = info_of(d.dtype);
    const auto padded = (d.head_dim + info.block_elems - 1) / info.block_elems * info.block_elems;
    StoredCells s{a.name, d.dtype, d.head_dim, d.n_kv_heads, {}, {}, {}};
    std::vector<float> head(padded);
    std::map<int64_t, std::vector<unsigned char>> pages;
    for (const int32_t cell : a.cells) {
      const int64_t page = cell / kPage;
      if (cell < 0 || page >= halves_[a.half].n_pages) continue;
      if (pages.count(page) == 0) pages[page] = rows_of({a.half, page});
      const unsigned char* row = pages[page].data() + cell_bytes(a.half) * (cell % kPage);
      s.bytes.insert(s.bytes.end(), row, row + cell_bytes(a.half));
      for (uint32_t j = 0; j < d.n_kv_heads; ++j, row += cell_bytes(a.half) / d.n_kv_heads) {
        if (const std::string why = signalling_in(a.name, d.dtype, row, d.head_dim); !why.empty())
          return why;
        mica_dtype_decode(d.dtype, row, head.data(), padded);
        s.values.insert(s.values.end(), head.begin(), head.begin() + d.head_dim);
        for (uint32_t i = 0; i < d.head_dim; i += info.block_elems)
          add_steps(d.dtype, &head[i], info.block_elems,
                    std::min<uint32_t>(info.block_elems, d.head_dim - i), s.steps);
      }
    }
    stored.push_back(std::move(s));
  }
  return "";
}

}  // namespace mica::conformance
