// KV pages of the CPU backend: their bytes, appending against the reference encoders bit by bit,
// and attention over tables of any content, for every instruction set this machine has.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/isa.h"
#include "backends/cpu/kernels/attention/kv_page.h"
#include "backends/cpu/kv_page.h"
#include "core/base/dtype.h"
#include "mica/kv_cache.h"
#include "ops/attention/attention_args.h"
#include "ops/kv_shift_args.h"
#include "ops/rope.h"
#include "tests/unit/plan/odd_value.h"

namespace mica::cpu {
// Of each instruction set that was built.
#define MICA_KERNEL(isa, name)
#define MICA_ISA_END(isa)
#define MICA_ISA_BEGIN(isa)                  \
  namespace isa {                            \
  extern const KernelList kernels_attention; \
  extern const KernelList kernels_kv_append; \
  extern const KernelList kernels_kv_shift;  \
  }
#include "cpu_kernels.def"
#undef MICA_ISA_BEGIN
}  // namespace mica::cpu

namespace {

using namespace mica;
using namespace mica::cpu;

constexpr mica_dtype kTypes[] = {MICA_F32,  MICA_F16,  MICA_BF16, MICA_Q8_0,
                                 MICA_Q4_0, MICA_Q4_1, MICA_Q5_0, MICA_Q5_1};
constexpr int64_t kPages = 3;

struct Kernels {
  Isa isa;
  const KernelList* attention;
  const KernelList* append;
  const KernelList* shift;
};
std::vector<Kernels> kernels_here() {
  std::vector<Kernels> all = {
#define MICA_ISA_BEGIN(isa) \
  {Isa::isa, &isa::kernels_attention, &isa::kernels_kv_append, &isa::kernels_kv_shift},
#include "cpu_kernels.def"
  };
  while (all.back().isa > cpu_info().best) all.pop_back();
  return all;
}

// One layer's K or V with the plain rows it holds beside it.
struct State {
  mica_b_kv_desc desc;
  uint32_t layout = 0;
  uint64_t page_bytes = 0;
  std::vector<char> pages;

  State(mica_dtype dtype, uint32_t head_dim, uint32_t n_kv_heads, bool is_v)
      : desc{dtype, head_dim, n_kv_heads, is_v ? 1u : 0u} {
    EXPECT_EQ(kv_layout(nullptr, &desc, &layout, &page_bytes), MICA_OK);
    pages.resize(page_bytes * kPages);
  }
  uint32_t elems() const {  // of a row, padded to whole blocks
    const uint32_t block = find_dtype(desc.dtype)->info.block_elems;
    return (desc.head_dim + block - 1) / block * block;
  }
  char* page(int64_t i) { return pages.data() + page_bytes * static_cast<uint64_t>(i); }
  void put(int64_t slot, uint32_t head, const std::vector<char>& row) {
    kv_pack_cell(desc, page(slot / 64), head, static_cast<uint32_t>(slot % 64), row.data());
  }
  std::vector<char> get(int64_t slot, uint32_t head) {
    std::vector<char> row(kv_row_bytes(desc));
    kv_unpack_cell(desc, page(slot / 64), head, static_cast<uint32_t>(slot % 64), row.data());
    return row;
  }
  std::vector<char> encode(const float* x) {
    std::vector<float> padded(elems(), 0.0f);
    std::copy(x, x + desc.head_dim, padded.begin());
    std::vector<char> row(kv_row_bytes(desc));
    find_dtype(desc.dtype)->encode(padded.data(), row.data(), padded.size());
    return row;
  }
};

Tensor tensor(mica_dtype dtype, std::vector<int64_t> dim, void* data, uint32_t layout = 0) {
  Tensor t = {};
  t.dtype = dtype;
  t.layout = layout;
  t.data = static_cast<char*>(data);
  t.stride[0] = find_dtype(dtype)->info.block_bytes;
  for (size_t i = 0; i < 4; ++i) {
    t.dim[i] = i < dim.size() ? dim[i] : 1;
    if (i > 0) t.stride[i] = t.stride[i - 1] * t.dim[i - 1];
  }
  return t;
}
Tensor tensor(State& s) {
  Tensor t = tensor(s.desc.dtype, {s.desc.head_dim, s.desc.n_kv_heads, kPages * 64}, s.pages.data(),
                    s.layout);
  t.storage = MICA_B_STATE;
  return t;
}

void run(const Kernel& kernel, Call& call) {
  ASSERT_EQ(kernel.supports(call), nullptr);
  std::vector<char> workspace(kernel.workspace != nullptr ? kernel.workspace(call) : 0);
  std::vector<char> scratch(kernel.scratch != nullptr ? kernel.scratch(call) : 0);
  call.workspace = workspace.data();
  for (uint32_t phase = 0; phase < kernel.n_phases; ++phase) {
    kernel.run(call, phase, 0, kernel.items(call, phase), scratch.data());
  }
}

TEST(CpuKvPage, SizesAndRefusals) {
  uint32_t layout = 0;
  uint64_t bytes = 0;
  const auto page_bytes = [&](mica_dtype dtype, uint32_t head_dim, bool is_v) {
    const mica_b_kv_desc desc = {dtype, head_dim, 3, is_v ? 1u : 0u};
    return kv_layout(nullptr, &desc, &layout, &bytes) == MICA_OK ? bytes : 0;
  };
  EXPECT_EQ(page_bytes(MICA_F16, 64, false), 64u * 3 * 64 * 2);
  EXPECT_EQ(layout, kLayoutKPage);
  EXPECT_EQ(page_bytes(MICA_F16, 64, true), 64u * 3 * 64 * 2);
  EXPECT_EQ(layout, kLayoutVPage);
  EXPECT_EQ(page_bytes(MICA_F32, 20, false), 64u * 3 * 20 * 4);
  EXPECT_EQ(page_bytes(MICA_F32, 20, true), 64u * 3 * 32 * 4);    // padded to 16
  EXPECT_EQ(page_bytes(MICA_Q8_0, 80, false), 64u * 3 * 3 * 34);  // padded to 32
  EXPECT_EQ(page_bytes(MICA_Q4_0, 80, true), 64u * 3 * 3 * 18);
  EXPECT_EQ(page_bytes(MICA_Q4_1, 80, true), 64u * 3 * 3 * 20);
  EXPECT_EQ(page_bytes(MICA_Q5_0, 80, false), 64u * 3 * 3 * 22);
  EXPECT_EQ(page_bytes(MICA_Q5_1, 80, true), 64u * 3 * 3 * 24);
  const mica_b_kv_desc wrong_type = {MICA_Q4_K, 256, 1, 0};
  EXPECT_EQ(kv_layout(nullptr, &wrong_type, &layout, &bytes), MICA_UNSUPPORTED);
  const mica_b_kv_desc no_heads = {MICA_F16, 64, 0, 0};
  EXPECT_EQ(kv_layout(nullptr, &no_heads, &layout, &bytes), MICA_INVALID_ARGUMENT);
}

// Every cell has bytes of its own, inside the page, and they decode to what was put there.
TEST(CpuKvPage, CellsAreApart) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const mica_dtype dtype : kTypes) {
    for (const bool is_v : {false, true}) {
      for (const uint32_t head_dim : {1u, 33u, 64u, 80u}) {
        State s(dtype, head_dim, 2, is_v);
        std::vector<std::vector<char>> rows;
        for (int64_t i = 0; i < kPages * 64 * 2; ++i) {
          std::vector<float> x(head_dim);
          for (float& v : x) v = normal(random);
          rows.push_back(s.encode(x.data()));
          s.put(i / 2, static_cast<uint32_t>(i % 2), rows.back());
        }
        KvPage page;
        ASSERT_TRUE(kv_page(dtype, is_v, head_dim, 2, &page));
        for (int64_t i = 0; i < kPages * 64 * 2; ++i) {
          const std::vector<char>& row = rows[static_cast<size_t>(i)];
          ASSERT_EQ(s.get(i / 2, static_cast<uint32_t>(i % 2)), row);
          std::vector<float> x(s.elems());
          find_dtype(dtype)->decode(row.data(), x.data(), x.size());
          const char* head = s.page(i / 2 / 64) + i % 2 * page.head_bytes;
          for (uint32_t j = 0; j < head_dim; ++j) {
            ASSERT_EQ(kv_element(page, head, i / 2 % 64, j), x[j]);
          }
        }
      }
    }
  }
}

// The addressed cells hold the reference encoder's bits, all others are as they were.
TEST(CpuKvPage, AppendIsBitExact) {
  std::mt19937 random(2);
  for (int round = 0; round < 60; ++round) {
    for (const mica_dtype dtype : kTypes) {
      const mica_dtype from = kTypes[random() % 3];
      const auto head_dim = static_cast<uint32_t>(1 + random() % 140);
      const auto n_heads = static_cast<uint32_t>(1 + random() % 3);
      const int64_t n_tokens = 1 + random() % 20;
      State before(dtype, head_dim, n_heads, random() % 2 != 0);
      for (char& c : before.pages) c = static_cast<char>(random());
      std::vector<float> x(static_cast<size_t>(n_tokens) * n_heads * head_dim);
      const float sigma = std::pow(10.0f, static_cast<float>(random() % 14) - 8);
      for (float& v : x) v = round % 7 == 0 ? 0.0f : odd_value(random, sigma);
      std::vector<char> rows(x.size() * find_dtype(from)->info.block_bytes);
      find_dtype(from)->encode(x.data(), rows.data(), x.size());
      find_dtype(from)->decode(rows.data(), x.data(), x.size());
      std::vector<int32_t> slots;
      State after = before;
      for (int64_t t = 0; t < n_tokens; ++t) {
        slots.push_back(static_cast<int32_t>(random() % (kPages * 64 + 20)) - 10);
        if (slots.back() < 0 || slots.back() >= kPages * 64) continue;
        for (uint32_t h = 0; h < n_heads; ++h) {
          after.put(slots.back(), h,
                    after.encode(&x[(static_cast<size_t>(t) * n_heads + h) * head_dim]));
        }
      }
      for (const Kernels& kernels : kernels_here()) {
        State got = before;
        Call call = {};
        call.op = MICA_OP_kv_append;
        call.n_in = 3;
        call.in[0] = call.out = tensor(got);
        call.in[1] = tensor(from, {head_dim, n_heads, n_tokens}, rows.data());
        call.in[2] = tensor(MICA_I32, {n_tokens}, slots.data());
        run(kernels.append->rows[0], call);
        ASSERT_TRUE(got.pages == after.pages)
            << isa_name(kernels.isa) << " " << find_dtype(dtype)->info.name << " from "
            << find_dtype(from)->info.name << ", head_dim " << head_dim;
      }
    }
  }
}

// By how many positions an entry of a list moves a cell of the state.
int64_t moved_by(const int32_t* w, int64_t cell) {
  const int64_t i =
      cell - int64_t{w[MICA_KV_SHIFT_PAGE]} * 64 - int64_t{w[MICA_KV_SHIFT_FIRST_CELL]};
  const int64_t to_div = w[MICA_KV_SHIFT_TO_DIV], from_div = w[MICA_KV_SHIFT_FROM_DIV];
  if (i < 0 || i >= w[MICA_KV_SHIFT_N_CELLS] || to_div < 1 || from_div < 1) return 0;
  return (w[MICA_KV_SHIFT_TO] + i) / to_div - (w[MICA_KV_SHIFT_FROM] + i) / from_div;
}

void rotate_row(const mica_kv_shift_args& a, int64_t by, std::vector<float>& x) {
  const size_t n_pairs = a.angles.n_rot / 2;
  for (size_t i = 0; i < n_pairs; ++i) {
    const double power =
        std::pow(a.angles.base, -static_cast<double>(i) / static_cast<double>(n_pairs));
    const double angle = static_cast<double>(by) * a.angles.linear_scale * power;
    const bool adjacent = a.pairing == MICA_ROPE_ADJACENT;
    float& x0 = x[a.offset + (adjacent ? 2 * i : i)];
    float& x1 = x[a.offset + (adjacent ? 2 * i + 1 : i + n_pairs)];
    const double y0 = x0 * std::cos(angle) - x1 * std::sin(angle);
    x1 = static_cast<float>(x0 * std::sin(angle) + x1 * std::cos(angle));
    x0 = static_cast<float>(y0);
  }
}

// Whatever the words of a list are, only the K of cells that it moves changes, and of F32 it is
// rotated.
TEST(CpuKvPage, ShiftByAnyList) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  constexpr uint32_t kDim = 40, kHeads = 2;
  constexpr int64_t kCells = kPages * 64, kEntries = 5;
  for (int round = 0; round < 200; ++round) {
    const mica_dtype dtype = kTypes[random() % std::size(kTypes)];
    mica_kv_shift_args args = {};
    args.angles.n_rot = 22;
    args.offset = 7;
    args.pairing = random() % 2;
    args.angles.base = 100.0f;
    args.angles.linear_scale = 0.5f;
    args.angles.beta_fast = args.angles.beta_slow = 1.0f;
    State before(dtype, kDim, kHeads, false);
    std::vector<std::vector<float>> rows;  // by cell and head
    for (int64_t i = 0; i < kCells * kHeads; ++i) {
      rows.emplace_back(kDim);
      for (float& value : rows.back()) value = normal(random);
      before.put(i / kHeads, static_cast<uint32_t>(i % kHeads), before.encode(rows.back().data()));
    }
    const auto any = [&](int64_t most) {
      if (random() % 32 == 0) return static_cast<int32_t>(random());
      return static_cast<int32_t>(random() % static_cast<uint64_t>(most + 2)) - 1;
    };
    std::vector<int32_t> list = {any(kEntries)};
    for (int64_t e = 0; e < kEntries; ++e)
      for (const int64_t most : {2, 64, 64, 200, 3, 200, 3}) list.push_back(any(most));
    std::vector<bool> moves(kCells), far(kCells);
    for (int64_t e = 0; e < std::min<int64_t>(list[0], kEntries); ++e) {
      const int32_t* w = &list[static_cast<size_t>(1 + e * MICA_KV_SHIFT_WORDS)];
      for (size_t cell = 0; cell < kCells; ++cell) {
        const int64_t by = moved_by(w, static_cast<int64_t>(cell));
        if (by == 0) continue;
        moves[cell] = true;
        if (std::abs(by) > 1 << 20) far[cell] = true;
        for (size_t h = 0; h < kHeads; ++h) rotate_row(args, by, rows[cell * kHeads + h]);
      }
    }
    for (const Kernels& kernels : kernels_here()) {
      State got = before;
      Call call = {};
      call.op = MICA_OP_kv_shift;
      call.n_in = 2;
      call.args = &args;
      call.in[0] = call.out = tensor(got);
      call.in[1] = tensor(MICA_I32, {static_cast<int64_t>(list.size())}, list.data());
      run(kernels.shift->rows[0], call);
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto cell = static_cast<int64_t>(i / kHeads);
        const std::vector<char> row = got.get(cell, static_cast<uint32_t>(i % kHeads));
        if (!moves[i / kHeads]) {
          ASSERT_EQ(row, before.get(cell, static_cast<uint32_t>(i % kHeads))) << cell;
        } else if (dtype == MICA_F32 && !far[i / kHeads]) {
          std::vector<float> x(kDim);
          std::memcpy(x.data(), row.data(), row.size());
          for (size_t d = 0; d < kDim; ++d) ASSERT_NEAR(x[d], rows[i][d], 1e-5) << cell << " " << d;
        }
      }
    }
  }
}

// Whatever the words of a table are, nothing outside the tensors is touched (sanitizers see it),
// every result is written, and both variants agree.
TEST(CpuKvPage, AttentionOverAnyTable) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  constexpr int64_t kTokens = 3, kHeads = 6, kKvHeads = 2, kDimK = 40, kDimV = 24, kTurned = 22;
  mica_attention_args args = {0.2f, 0.0f, 1, 50, 3, 4, kTurned, 5, 0, 0};
  const auto any = [&](int64_t most) {
    if (random() % 16 == 0) return static_cast<int32_t>(random());
    return static_cast<int32_t>(random() % static_cast<uint64_t>(most + 2)) - 1;
  };
  for (int round = 0; round < 300; ++round) {
    State k(kTypes[random() % std::size(kTypes)], kDimK, kKvHeads, false);
    State v(kTypes[random() % std::size(kTypes)], kDimV, kKvHeads, true);
    for (State* s : {&k, &v}) {
      for (int64_t i = 0; i < kPages * 64 * kKvHeads; ++i) {
        std::vector<float> x(s->desc.head_dim);
        for (float& value : x) value = normal(random);
        s->put(i / kKvHeads, static_cast<uint32_t>(i % kKvHeads), s->encode(x.data()));
      }
    }
    std::vector<float> q(kDimK * kHeads * kTokens);
    for (float& value : q) value = normal(random);
    std::vector<float> turns(kTurned * 4);
    for (float& value : turns) value = normal(random);
    std::vector<int32_t> positions = {any(200), any(200), any(200)};
    std::vector<int32_t> table(MICA_KV_TABLE_WORDS(4, 12));
    table[0] = 1 + static_cast<int32_t>(random() % 4);
    // Spans rise, so that no two sequences have one token.
    for (size_t i = 1; i < 5; ++i) {
      table[1 + i] = std::min(3, table[i] + static_cast<int>(random() % 3));
    }
    for (size_t i = 0; i < 5; ++i) table[6 + i] = any(12);
    for (size_t i = 11; i < table.size(); ++i) {
      table[i] = any((i - 11) % MICA_KV_ENTRY_WORDS == MICA_KV_ENTRY_PAGE ? 2 : 64);
      if ((i - 11) % MICA_KV_ENTRY_WORDS == MICA_KV_ENTRY_TURN) table[i] = any(5);
    }
    args.rope_pairing = random() % 2;
    for (const Kernels& kernels : kernels_here()) {
      std::vector<float> out[2];
      for (const uint32_t row : {0u, 1u}) {
        out[row].assign(kDimV * kHeads * kTokens, NAN);
        Call call = {};
        call.n_in = MICA_ATTENTION_INPUTS;
        call.args = &args;
        call.in[0] = tensor(MICA_F32, {kDimK, kHeads, kTokens}, q.data());
        call.in[1] = tensor(k);
        call.in[2] = tensor(v);
        call.in[3] = tensor(MICA_I32, {kTokens}, positions.data());
        call.in[4] = tensor(MICA_I32, {static_cast<int64_t>(table.size())}, table.data());
        if (round % 4 != 0)
          call.in[MICA_ATTENTION_TURNS] = tensor(MICA_F32, {kTurned, 4}, turns.data());
        call.out = tensor(MICA_F32, {kDimV, kHeads, kTokens}, out[row].data());
        run(kernels.attention->rows[row], call);
      }
      for (size_t i = 0; i < out[0].size(); ++i) ASSERT_NEAR(out[0][i], out[1][i], 1e-4);
    }
  }
}

}  // namespace
