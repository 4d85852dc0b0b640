// Edits of a session's sequences, saves and loads, and what the oracle knows after each.
#pragma once
#include <set>

#include "tests/unit/kv/kv_forward_cells.h"

namespace mica::kv_test {

struct Range {
  int64_t p0, p1;  // p1 < 0: to the end
};
struct Change {
  enum Kind { kRemove, kAdd, kDivide } kind;
  int64_t by;
};

class Lines : public Cells {
 public:
  using Cells::Cells;

 protected:
  static constexpr int64_t kFarthest = 1000000;  // angles are exact up to 2^20

  Range random_range(uint32_t seq) {
    const Line& line = lines_[seq];
    const auto at = [&] {  // mostly where cells are, however far that is
      const auto n = static_cast<uint32_t>(line.size());
      return n == 0 ? int64_t{pick(3)} : line[pick(n)].position() + pick(2);
    };
    const int64_t p0 = pick(8) == 0 ? 0 : at();
    const uint32_t kind = pick(4);
    return {p0, kind == 0 ? -1 : kind == 1 ? std::max(p0, at()) : p0 + pick(50)};
  }
  static Line cut(Line& line, Range r) {
    const auto from = first_at(line, r.p0);
    const auto to = r.p1 < 0 ? line.end() : first_at(line, std::max(r.p0, r.p1));
    Line out(from, to);
    line.erase(from, to);
    return out;
  }
  // Adds changed tokens. False: a position is out of range or was taken before.
  static bool put(Line& line, const Line& tokens, const Change& what) {
    std::set<int64_t> taken;
    for (const Token& t : line) taken.insert(t.position());
    bool ok = true;
    for (Token t : tokens) {
      if (what.kind == Change::kAdd) t.base += what.by * t.div;
      if (what.kind == Change::kDivide) t.div = std::min<int64_t>(t.div * what.by, INT32_MAX);
      ok = ok && t.base >= 0 && t.base < INT32_MAX && taken.count(t.position()) == 0;
      line.push_back(std::move(t));
    }
    std::stable_sort(line.begin(), line.end(),
                     [](const Token& a, const Token& b) { return a.position() < b.position(); });
    return ok;
  }
  static bool is_too_far(const Line& line) { return end_of(line) > kFarthest; }

  // After an edit by which `seq` is to hold `line`; `possible`: no position is taken or out of
  // range.
  bool accept(mica_status status, uint32_t seq, const Bytes& before, Line line, bool possible) {
    [&] {
      if (status == MICA_OK) {
        ASSERT_TRUE(possible);
        lines_[seq] = std::move(line);
        next_[seq] = end_now(seq);
        redo_[seq] = 0;
        return;
      }
      const std::string error = here_->error();
      check_same(before);
      if (status == MICA_CACHE_FULL) return make_room();
      ++n_refused;
      ASSERT_EQ(status, MICA_INVALID_ARGUMENT) << error;
      const bool of_window = has(error, "has released") || (lossy_ && has(error, "held positions"));
      ASSERT_TRUE(!possible || of_window) << error;
    }();
    return status == MICA_OK;
  }

  // False: nothing was changed.
  bool change(uint32_t seq, Range r, const Change& what) {
    Line line = lines_[seq];
    const Line part = cut(line, r);
    if (r.p0 == r.p1 || (what.kind != Change::kRemove && part.empty())) return true;
    if (what.by == (what.kind == Change::kDivide ? 1 : 0) && what.kind != Change::kRemove)
      return true;
    const bool possible = what.kind == Change::kRemove || put(line, part, what);
    if (possible ? is_too_far(line) : lossy_) return false;
    const Bytes before = snapshot();
    const mica_status status =
        what.kind == Change::kRemove ? mica_kv_seq_rm(cache(), seq, r.p0, r.p1)
        : what.kind == Change::kAdd  ? mica_kv_seq_add(cache(), seq, r.p0, r.p1, what.by)
                                     : mica_kv_seq_div(cache(), seq, r.p0, r.p1, what.by);
    n_moves += status == MICA_OK && what.kind != Change::kRemove;
    return accept(status, seq, before, line, possible);
  }
  // A range of some sequence, several times if there is no room.
  void move(bool divide) {
    const uint64_t n_before = n_moves;
    for (int i = 0; i < 4 && n_moves == n_before && !failed(); ++i) move(pick(kSeqs), divide);
  }
  void move(uint32_t seq, bool divide) {
    const int64_t sizes[] = {20, 20, 200, 200, 2000, 500000, int64_t{1} << 33};
    const auto most = static_cast<uint64_t>(sizes[pick(20) == 0 ? 6 : pick(6)]);
    int64_t by = static_cast<int64_t>(random_() * random_() % most);
    if (pick(6) == 0) by = -by;
    // Back from far away, so that there is room to move again.
    const bool back = !divide && end_of(lines_[seq]) > 3000 && pick(2) == 0;
    Range r = back ? Range{0, -1} : random_range(seq);
    // Or there is often no room.
    if (pick(4) != 0) (divide ? r.p0 : r.p1) = divide ? 0 : -1;
    (void)change(seq, r,
                 divide ? Change{Change::kDivide, 1 + pick(pick(8) == 0 ? 1000 : 4)}
                        : Change{Change::kAdd, back ? -lines_[seq][0].position() : by});
  }
  void copy(uint32_t src) {
    const uint32_t dst = (src + 1 + pick(kSeqs - 1)) % kSeqs;
    if (pick(4) == 0) remove(dst);
    const Range r = random_range(src);
    copy_to(src, r, dst, pick(4) == 0 ? r.p0 : end_of(lines_[dst]) + pick(90));
  }
  void copy_to(uint32_t src, Range r, uint32_t dst, int64_t to) {
    Line rest = lines_[src], line = lines_[dst];
    const Line part = cut(rest, r);
    if (part.empty()) return;
    const bool possible = put(line, part, {Change::kAdd, to - r.p0});
    if (possible ? is_too_far(line) : lossy_) return;
    const Bytes before = snapshot();
    const bool plain = to == r.p0 && pick(2) == 0;
    const mica_status status = plain ? mica_kv_seq_cp(cache(), src, dst, r.p0, r.p1)
                                     : mica_kv_seq_cp_to(cache(), src, dst, r.p0, r.p1, to);
    (void)accept(status, dst, before, line, possible);
  }
  void remove_others(uint32_t seq) {
    if (pick(3) != 0) return;
    const bool clear = pick(3) == 0;
    ASSERT_EQ(clear ? mica_kv_clear(cache()) : mica_kv_seq_keep(cache(), seq), MICA_OK);
    for (uint32_t s = 0; s < kSeqs; ++s) {
      if (s == seq && !clear) continue;
      lines_[s].clear();
      next_[s] = redo_[s] = 0;
    }
  }
  void seek(uint32_t seq, int64_t to) {
    const Bytes before = snapshot();
    const mica_status status = mica_kv_seq_seek(cache(), seq, to);
    if (status == MICA_OK) {
      ASSERT_FALSE(to >= 0 && holds(seq, to) && !lossy_);
      next_[seq] = to >= 0 ? to : end_now(seq);
      redo_[seq] = 0;
      return;
    }
    const std::string error = here_->error();
    check_same(before);
    ASSERT_EQ(status, MICA_INVALID_ARGUMENT) << error;
    ASSERT_TRUE((to >= 0 && holds(seq, to)) || has(error, "has released")) << error;
  }
  // Into a gap, if there is one.
  void random_seek(uint32_t seq) {
    std::vector<int64_t> at = {-1, end_of(lines_[seq]) + pick(20)};
    for (size_t i = 0; i + 1 < lines_[seq].size(); ++i)
      if (lines_[seq][i + 1].position() > lines_[seq][i].position() + 1)
        at.push_back(lines_[seq][i].position() + 1);
    seek(seq, at[pick(static_cast<uint32_t>(at.size()))]);
  }
  void end_seek(uint32_t seq) {
    if (mica_kv_seq_seek(cache(), seq, -1) != MICA_OK) return;
    next_[seq] = end_now(seq);
    redo_[seq] = 0;
  }
  void rewind(uint32_t seq) {
    const auto n = static_cast<uint32_t>(lines_[seq].size());
    // Mostly not far.
    const uint32_t back = n == 0 ? 0 : pick(pick(4) == 0 ? n : std::min(n, 30u));
    const int64_t to = n == 0 ? 0 : lines_[seq][n - 1 - back].position() + pick(2);
    int64_t from = -1;
    ASSERT_EQ(mica_kv_seq_rewind(cache(), seq, to, &from), MICA_OK) << here_->error();
    ASSERT_LE(from, to);
    Line& line = lines_[seq];
    cut(line, {to, -1});
    next_[seq] = from;
    redo_[seq] = from < to ? to : 0;
    // What cannot be run again, as it is not one token a position.
    const auto at = first_at(line, from);
    bool whole = line.end() - at == to - from;
    for (auto it = at; it != line.end(); ++it) whole = whole && it->position() == from + (it - at);
    if (!whole) remove(seq);
  }

  void save_and_load(uint32_t seq) {
    if (lines_[seq].empty()) return;
    const Bytes bytes = here_->save(seq);
    const Line line = lines_[seq];
    const int64_t next = next_[seq], redo = redo_[seq];
    remove(seq);
    if (failed()) return;
    uint32_t to = pick(kSeqs);
    if (!lines_[to].empty() || next_[to] != 0) to = seq;
    const Bytes before = snapshot();
    mica_kv_loaded loaded{};
    const mica_status status = here_->load(bytes, to, &loaded);
    if (status == MICA_CACHE_FULL) return check_same(before);  // pages were shared
    ASSERT_EQ(status, MICA_OK) << here_->error();
    ++n_loads;
    ASSERT_EQ(loaded.converted, 0);
    ASSERT_TRUE(lossy_ || loaded.n_cells == line.size());
    lines_[to] = line;
    next_[to] = next;
    redo_[to] = redo;
    ASSERT_TRUE((loaded.needs_shift != 0) == needs_shift(to) ||
                (lossy_ && loaded.needs_shift == 0));
    ASSERT_TRUE(to != seq || here_->save(seq) == bytes);
  }
  // All sequences, or one, go on in the other cache, whose keys and types are others.
  void migrate(uint32_t seq) {
    const bool all = pick(8) != 0;
    const Bytes bytes = here_->save(all ? MICA_KV_ALL_SEQS : seq);
    const Kinds from = here_->kinds;
    std::swap(here_, there_);
    home_ = !home_;
    remove_all_but(all ? kSeqs : seq);
    ASSERT_EQ(mica_kv_clear(cache()), MICA_OK);
    mica_kv_loaded loaded{};
    ASSERT_EQ(here_->load(bytes, all ? MICA_KV_ALL_SEQS : seq, &loaded), MICA_OK) << here_->error();
    ++n_loads;
    bool shifts = false;
    for (uint32_t s = 0; s < kSeqs; ++s) {
      convert(lines_[s], from);
      shifts = shifts || needs_shift(s);
    }
    ASSERT_TRUE((loaded.needs_shift != 0) == shifts || (lossy_ && loaded.needs_shift == 0));
    check_storage({});
  }
  void remove_all_but(uint32_t seq) {
    for (uint32_t s = 0; s < kSeqs; ++s) {
      if (s == seq || seq == kSeqs) continue;
      lines_[s].clear();
      next_[s] = redo_[s] = 0;
    }
  }
  void convert(Line& line, const Kinds& from) const {
    const Kinds& to = here_->kinds;
    for (Token& t : line)
      for (std::shared_ptr<const Rows>& rows : t.rows) {
        if (rows == nullptr) continue;
        Rows other = *rows;
        if (to.k != from.k) other.k = stored(to.k, other.k.data(), net_.head_dim);
        if (to.v != from.v) other.v = stored(to.v, other.v.data(), net_.head_dim);
        rows = std::make_shared<const Rows>(std::move(other));
      }
  }
};

}  // namespace mica::kv_test
