// Saved states of a KV cache: what was saved goes on as it did, bit by bit; what is damaged, cut,
// foreign or too large changes nothing and says why.
#include "core/state/kv_state.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "tests/unit/world.h"

namespace {

using namespace mica::test;
using Bytes = std::vector<uint8_t>;

struct Shape {
  std::vector<mica_kv_layer> layers;
  uint32_t n_cells = 64 * 12, max_seqs = 3, max_entries = 0;
  mica_kv_keys keys = MICA_KV_KEYS_NONE;
};

mica_kv_layer layer(mica_dtype k, mica_dtype v, uint32_t window = 0, uint32_t n_first = 0,
                    uint32_t dim = 40, uint32_t heads = 2) {
  mica_kv_layer l = MICA_KV_LAYER_INIT;
  l.n_kv_heads = heads;
  l.head_dim_k = l.head_dim_v = dim;
  l.dtype_k = k;
  l.dtype_v = v;
  l.window = window;
  l.n_first = n_first;
  return l;
}

// A cache in a session with a plan that appends to every layer and attends.
struct Model {
  static constexpr int64_t kTokens = 100;
  Model(const char* backend, const Shape& shape, const mica_context_params* params = nullptr)
      : context(make_context(params)), device(open_device(context, backend)), shape_(shape) {
    if (device == nullptr) return;
    mica_kv_params p = MICA_KV_PARAMS_INIT;
    p.n_layers = static_cast<uint32_t>(shape.layers.size());
    p.layers = shape.layers.data();
    p.n_cells = shape.n_cells;
    p.max_seqs = shape.max_seqs;
    p.max_step_tokens = kTokens;
    p.max_entries = shape.max_entries;
    p.keys = shape.keys;
    mica_kv_cache* c = nullptr;
    EXPECT_EQ(mica_kv_cache_create(device.get(), &p, &c), MICA_OK) << error();
    cache.reset(c);
    session = make_session(device, c);
    const Graph g = make_graph(context);
    const mica_extent n = mica_graph_extent(g.get(), "n_tokens", kTokens);
    for (uint32_t i = 0; i < shape.layers.size(); ++i) {
      const mica_kv_layer& l = shape.layers[i];
      const std::string name = "x" + std::to_string(i);
      const mica_tensor x = input(g.get(), name.c_str(), {l.head_dim_k, l.n_kv_heads, kTokens}, n);
      mica_kv kv = mica_graph_kv(g.get(), c, i, n);
      if (l.source == MICA_KV_NO_SOURCE)
        mica_kv_append(g.get(), &kv, x, l.v_is_k != 0 ? MICA_NO_TENSOR : x);
      const std::string y = "y" + std::to_string(i);
      mica_attention_params attention = MICA_ATTENTION_PARAMS_INIT;
      attention.no_rope = 1;
      if (i == 0) mica_output(g.get(), mica_copy(g.get(), kv.key_positions), "key_positions");
      mica_output(g.get(), mica_attention(g.get(), x, &kv, &attention), y.c_str());
    }
    plan = ready(context, session, g);
  }

  std::vector<float> step(const std::vector<mica_kv_span>& spans, uint64_t seed) {
    EXPECT_EQ(mica_kv_reserve(cache.get(), static_cast<uint32_t>(spans.size()), spans.data()),
              MICA_OK)
        << error();
    size_t n = 0;
    for (const mica_kv_span& s : spans) n += s.n_tokens;
    const auto size = [&](size_t i) {
      return n * shape_.layers[i].head_dim_k * shape_.layers[i].n_kv_heads;
    };
    for (size_t i = 0; i < shape_.layers.size(); ++i)
      set(session, ("x" + std::to_string(i)).c_str(), randoms(size(i), seed + i));
    EXPECT_EQ(mica_plan_run(plan), MICA_OK) << error();
    std::vector<float> out;
    for (size_t i = 0; i < shape_.layers.size(); ++i) {
      const std::vector<float> y = read(plan, ("y" + std::to_string(i)).c_str(), size(i));
      out.insert(out.end(), y.begin(), y.end());
    }
    return out;
  }
  // Three sequences with shared pages, a gap and moved cells.
  void fill() {
    step({{0, 100}}, 1);
    step({{0, 30}}, 2);
    EXPECT_EQ(mica_kv_seq_cp(cache.get(), 0, 1, 0, -1), MICA_OK);
    step({{1, 5}, {0, 9}, {2, 20}}, 3);
    if (shape_.keys == MICA_KV_KEYS_ROTATED) return;
    EXPECT_EQ(mica_kv_seq_rm(cache.get(), 2, 3, 6), MICA_OK);
    EXPECT_EQ(mica_kv_seq_add(cache.get(), 2, 6, -1, 10), MICA_OK) << error();
    EXPECT_EQ(mica_kv_seq_div(cache.get(), 2, 0, 3, 2), MICA_OK) << error();
  }

  mica_status save(uint32_t seq, Bytes& out, uint64_t limit = UINT64_MAX, uint64_t print = 7) {
    struct To {
      Bytes* bytes;
      uint64_t limit;
    } to = {&out, limit};
    out.clear();
    const mica_kv_writer writer = {[](void* user, const void* data, uint64_t n) {
                                     To& t = *static_cast<To*>(user);
                                     const auto* p = static_cast<const uint8_t*>(data);
                                     if (t.bytes->size() + n > t.limit) return MICA_IO;
                                     t.bytes->insert(t.bytes->end(), p, p + n);
                                     return MICA_OK;
                                   },
                                   &to};
    return mica_kv_save_to(session.get(), seq, print, &writer);
  }
  Bytes save(uint32_t seq = MICA_KV_ALL_SEQS) {
    Bytes out;
    EXPECT_EQ(save(seq, out), MICA_OK) << error();
    uint64_t bytes = 0;
    EXPECT_EQ(mica_kv_state_bytes(session.get(), seq, &bytes), MICA_OK);
    EXPECT_EQ(bytes, out.size());
    return out;
  }
  mica_status load(const Bytes& bytes, uint32_t seq = MICA_KV_ALL_SEQS,
                   mica_kv_loaded* out = nullptr, uint64_t print = 7) {
    struct From {
      const Bytes* bytes;
      size_t at;
    } from = {&bytes, 0};
    const mica_kv_reader reader = {[](void* user, void* dst, uint64_t n) {
                                     From& f = *static_cast<From*>(user);
                                     if (n > f.bytes->size() - f.at) return MICA_IO;
                                     if (n > 0) std::memcpy(dst, f.bytes->data() + f.at, n);
                                     f.at += n;
                                     return MICA_OK;
                                   },
                                   &from, bytes.size()};
    return mica_kv_load_from(session.get(), seq, print, &reader, out);
  }

  // All that a load that fails must leave as it was.
  std::vector<int64_t> snapshot() const {
    std::vector<int64_t> b;
    for (const mica::KvGroup& g : cache->groups) {
      for (const int32_t p : g.free_pages) b.push_back(p);
      for (uint32_t p = 0; p < g.n_pages; ++p) b.push_back(g.page_refs[p]);
      for (uint32_t s = 0; s < cache->max_seqs; ++s) b.push_back(g.seqs[s].n_entries);
    }
    for (uint32_t s = 0; s < cache->max_seqs; ++s) b.push_back(cache->next[s]);
    return b;
  }
  std::string error() const { return mica_context_error(context.get()); }
  void refuses(const Bytes& bytes, mica_status status, const std::string& text,
               uint32_t seq = MICA_KV_ALL_SEQS) {
    const std::vector<int64_t> before = snapshot();
    EXPECT_EQ(load(bytes, seq), status) << error();
    EXPECT_TRUE(has(error(), text)) << error();
    EXPECT_EQ(snapshot(), before);
  }

  Context context;
  Device device;
  Cache cache;
  Session session;
  mica_plan* plan = nullptr;

 private:
  Shape shape_;
};

class KvState : public testing::TestWithParam<const char*> {};

const std::vector<mica_kv_span> kNext = {{2, 7}, {0, 3}, {1, 60}};

TEST_P(KvState, GoesOnBitByBit) {
  constexpr mica_dtype kTypes[] = {MICA_F32,  MICA_F16,  MICA_BF16, MICA_Q8_0,
                                   MICA_Q4_0, MICA_Q4_1, MICA_Q5_0, MICA_Q5_1};
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    SCOPED_TRACE(i);
    Shape shape;
    const auto other = [&](size_t n) { return kTypes[(i + n) % std::size(kTypes)]; };
    shape.layers = {layer(kTypes[i], other(1)), layer(kTypes[i], kTypes[i], 30, 4),
                    layer(other(2), MICA_F16, 30, 4, 64), layer(kTypes[i], other(1))};
    shape.layers[3].source = 0;
    Model a(GetParam(), shape);
    a.fill();
    const Bytes bytes = a.save();
    shape.n_cells = 64 * 9;  // a smaller one will do
    shape.max_seqs = 4;
    Model b(GetParam(), shape);
    mica_kv_loaded loaded{};
    ASSERT_EQ(b.load(bytes, MICA_KV_ALL_SEQS, &loaded), MICA_OK) << b.error();
    EXPECT_EQ(loaded.n_seqs, 3u);
    EXPECT_EQ(loaded.n_cells, 139u + 135 + 17);
    EXPECT_EQ(loaded.converted + loaded.needs_shift, 0);
    EXPECT_EQ(b.save(), bytes) << "the same state again";
    EXPECT_EQ(a.step(kNext, 9), b.step(kNext, 9));
    EXPECT_EQ(a.step(kNext, 10), b.step(kNext, 10));
  }
}

TEST_P(KvState, VThatIsKIsSavedOnce) {
  Shape shape;
  shape.layers = {layer(MICA_F16, MICA_F16), layer(MICA_Q8_0, MICA_Q8_0, 30, 4)};
  Model both(GetParam(), shape);
  both.fill();
  const Bytes twice = both.save();
  for (mica_kv_layer& l : shape.layers) l.v_is_k = 1;
  Model a(GetParam(), shape);
  EXPECT_LE(2 * mica_kv_cache_bytes(a.cache.get()), mica_kv_cache_bytes(both.cache.get()));
  a.fill();
  const Bytes once = a.save();
  EXPECT_LT(once.size(), twice.size() * 3 / 5);
  Model b(GetParam(), shape);
  ASSERT_EQ(b.load(once), MICA_OK) << b.error();
  EXPECT_EQ(b.save(), once);
  const std::vector<float> next = a.step(kNext, 9);
  EXPECT_EQ(next, b.step(kNext, 9));
  EXPECT_EQ(next, both.step(kNext, 9)) << "which stored the same rows as K and as V";
  b.refuses(twice, MICA_INVALID_ARGUMENT, "its layer 0 has head_dim_v 40, the cache's 0");
  both.refuses(once, MICA_INVALID_ARGUMENT, "its layer 0 has head_dim_v 0, the cache's 40");
}

TEST_P(KvState, OneSequenceGoesElsewhere) {
  Shape shape;
  shape.layers = {layer(MICA_F16, MICA_F16), layer(MICA_F16, MICA_Q8_0, 30)};
  Model a(GetParam(), shape);
  a.fill();
  const Bytes bytes = a.save(1);
  Model b(GetParam(), shape);
  b.step({{0, 50}}, 40);
  b.refuses(bytes, MICA_INVALID_ARGUMENT, "sequence 0 is not empty; remove it first", 0);
  ASSERT_EQ(b.load(bytes, 2), MICA_OK) << b.error();
  EXPECT_EQ(mica_kv_seq_next(b.cache.get(), 2), 135);
  EXPECT_EQ(a.step({{1, 20}}, 5), b.step({{2, 20}}, 5));
  b.refuses(a.save(), MICA_INVALID_ARGUMENT, "the state has 3 sequences; load it with", 1);
  ASSERT_EQ(mica_kv_clear(b.cache.get()), MICA_OK);
  mica_kv_usage usage;
  ASSERT_EQ(mica_kv_cache_usage(b.cache.get(), &usage), MICA_OK);
  EXPECT_EQ(usage.n_pages, usage.n_pages_free);
}

// Of what is computed, squared and relative, when K and V become this type.
double largest_error(mica_dtype to) {
  if (to == MICA_Q4_0 || to == MICA_Q4_1) return 0.05;
  return to == MICA_Q5_0 || to == MICA_Q5_1 ? 0.0125 : 1e-3;
}

TEST_P(KvState, ConvertsDtypes) {
  const std::pair<mica_dtype, mica_dtype> pairs[] = {
      {MICA_F16, MICA_Q8_0},  {MICA_F32, MICA_F16},  {MICA_Q8_0, MICA_F32}, {MICA_BF16, MICA_Q4_0},
      {MICA_Q4_1, MICA_Q5_0}, {MICA_F16, MICA_Q4_1}, {MICA_F16, MICA_Q5_1}, {MICA_Q5_1, MICA_F32}};
  for (const auto& [from, to] : pairs) {
    Shape shape;
    shape.layers = {layer(from, MICA_F16), layer(MICA_F16, from, 30)};
    Model a(GetParam(), shape);
    a.fill();
    shape.layers = {layer(to, MICA_F16), layer(MICA_F16, to, 30)};
    Model b(GetParam(), shape);
    mica_kv_loaded loaded{};
    ASSERT_EQ(b.load(a.save(), MICA_KV_ALL_SEQS, &loaded), MICA_OK) << b.error();
    EXPECT_NE(loaded.converted, 0);
    const std::vector<float> x = a.step(kNext, 9), y = b.step(kNext, 9);
    double error = 0, norm = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      error += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
      norm += double{x[i]} * x[i];
    }
    EXPECT_LT(error, norm * largest_error(to));
    EXPECT_GT(error, to == MICA_F32 ? -1 : 0);
  }
}

Shape small() {
  Shape shape;
  shape.layers = {layer(MICA_F16, MICA_F16, 0, 0, 8, 1)};
  shape.n_cells = 128;
  shape.max_seqs = 2;
  return shape;
}

void seal(Bytes& bytes, size_t head) {
  mica::Checksum sum;
  sum.add(bytes.data(), head);
  for (size_t i = 0; i < 8; ++i) bytes[head + i] = static_cast<uint8_t>(sum.value() >> 8 * i);
}

TEST_P(KvState, DamageIsFound) {
  Model a(GetParam(), small());
  a.step({{0, 3}}, 1);
  const Bytes whole = a.save();
  Model b(GetParam(), small());
  b.step({{1, 2}}, 1);
  const std::vector<int64_t> before = b.snapshot();
  for (size_t n = 0; n < whole.size(); ++n) {
    ASSERT_EQ(b.load(Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(n))),
              MICA_BAD_FILE)
        << n << ": " << b.error();
    ASSERT_NE(b.error(), "");
  }
  for (size_t i = 0; i < whole.size(); ++i)
    for (const int flip : {1, 0x80, 0xff}) {
      Bytes bytes = whole;
      bytes[i] = static_cast<uint8_t>(bytes[i] ^ flip);
      ASSERT_EQ(b.load(bytes), MICA_BAD_FILE) << i << ": " << b.error();
    }
  Bytes longer = whole;
  longer.push_back(0);
  b.refuses(longer, MICA_BAD_FILE, "truncated or damaged");
  b.refuses(Bytes(100, 'x'), MICA_BAD_FILE, "is no KV state of mica");
  EXPECT_EQ(b.snapshot(), before);
  EXPECT_EQ(b.load(whole), MICA_OK) << b.error();
}

TEST_P(KvState, ANewerVersionIsNoDamage) {
  Model a(GetParam(), small());
  a.step({{0, 3}}, 1);
  Bytes bytes = a.save();
  bytes[8] = 9;
  seal(bytes, bytes[16] | bytes[17] << 8);
  a.refuses(bytes, MICA_UNSUPPORTED, "the state has version 9, this library reads 1", 1);
}

// A head that was changed and given the checksum that it then has.
TEST_P(KvState, ForgedTablesCannotLeaveTheCache) {
  Model a(GetParam(), small());
  a.step({{0, 3}}, 1);
  const Bytes whole = a.save();
  const size_t head = whole[16] | whole[17] << 8;
  size_t n_ok = 0;
  for (size_t i = 32; i < head; ++i)
    for (const int flip : {1, 3, 0x40, 0x80, 0xff}) {
      Bytes bytes = whole;
      bytes[i] = static_cast<uint8_t>(bytes[i] ^ flip);
      seal(bytes, head);
      Model b(GetParam(), small());
      const mica_status status = b.load(bytes);
      if (status == MICA_OK) {
        ++n_ok;  // other positions: a table that could be
        ASSERT_EQ(mica_kv_clear(b.cache.get()), MICA_OK);
      } else {
        ASSERT_EQ(mica_kv_seq_cells(b.cache.get(), 0), 0u);
      }
    }
  EXPECT_GT(n_ok, 0u);
}

TEST_P(KvState, OtherModelsAreRefused) {
  Model a(GetParam(), small());
  a.step({{0, 3}, {1, 3}}, 1);
  const Bytes bytes = a.save();
  const auto refused = [&](const Shape& shape, const std::string& text,
                           mica_status status = MICA_INVALID_ARGUMENT) {
    Model b(GetParam(), shape);
    b.refuses(bytes, status, text);
  };
  Shape s = small();
  s.layers.push_back(s.layers[0]);
  refused(s, "a model with 1 cached layers, the cache has 2");
  s = small();
  s.layers[0].head_dim_k = s.layers[0].head_dim_v = 16;
  refused(s, "its layer 0 has head_dim_k 8, the cache's 16");
  s.layers[0] = layer(MICA_F16, MICA_F16, 5, 0, 8, 1);
  refused(s, "its layer 0 has window 0, the cache's 5");
  s.layers[0] = layer(MICA_F16, MICA_F16, 0, 0, 8, 2);
  refused(s, "its layer 0 has n_kv_heads 1, the cache's 2");
  s = small();
  s.keys = MICA_KV_KEYS_ROTATED;
  refused(s, "of state and cache one has keys with RoPE");
  s = small();
  s.max_seqs = 1;
  refused(s, "the state has 2 sequences, the cache room for 1", MICA_CACHE_FULL);
  s = small();
  s.n_cells = 64;
  refused(s, "the KV cache has no room: the state needs 2 pages, 1 of 1 are free", MICA_CACHE_FULL);
  Model b(GetParam(), small());
  EXPECT_EQ(b.load(bytes, MICA_KV_ALL_SEQS, nullptr, 8), MICA_INVALID_ARGUMENT);
  EXPECT_TRUE(has(b.error(), "the state is of another model (")) << b.error();
}

TEST_P(KvState, TablesThatAreTooLongAreRefused) {
  Shape s = small();
  Model a(GetParam(), s);
  a.step({{0, 30}}, 1);
  ASSERT_EQ(mica_kv_seq_rm(a.cache.get(), 0, 5, 6), MICA_OK);
  ASSERT_EQ(mica_kv_seq_rm(a.cache.get(), 0, 10, 11), MICA_OK);
  s.max_entries = 2;
  Model b(GetParam(), s);
  b.refuses(a.save(), MICA_CACHE_FULL, "sequence 0 would have 3 table entries, 2 is the most");
}

TEST_P(KvState, RelativeKeysMayBecomeRotated) {
  Shape s = small();
  s.keys = MICA_KV_KEYS_RELATIVE;
  Model a(GetParam(), s);
  a.step({{0, 30}}, 1);
  ASSERT_EQ(mica_kv_seq_rm(a.cache.get(), 0, 5, 10), MICA_OK);
  ASSERT_EQ(mica_kv_seq_add(a.cache.get(), 0, 10, -1, -5), MICA_OK);
  const Bytes bytes = a.save(0);
  mica_kv_loaded loaded{};
  Model b(GetParam(), s);
  ASSERT_EQ(b.load(bytes, 1, &loaded), MICA_OK) << b.error();
  EXPECT_EQ(loaded.needs_shift, 0);
  EXPECT_EQ(b.cache->next_key[1], 30);
  s.keys = MICA_KV_KEYS_ROTATED;
  Model c(GetParam(), s);
  ASSERT_EQ(c.load(bytes, 1, &loaded), MICA_OK) << c.error();
  EXPECT_NE(loaded.needs_shift, 0);
  EXPECT_EQ(c.cache->next_key[1], 25);
  const mica_kv_span span = {1, 1};
  EXPECT_EQ(mica_kv_reserve(c.cache.get(), 1, &span), MICA_INVALID_ARGUMENT);
  uint64_t n = 0;
  EXPECT_EQ(mica_kv_reserve_shift(c.cache.get(), 0, &n), MICA_OK);
  EXPECT_EQ(n, 20u);
}

// Every kind of keys becomes every other: K is rotated from what it is stored as to what it must
// be.
TEST_P(KvState, KeysMayBecomeOthers) {
  const mica_kv_keys all[] = {MICA_KV_KEYS_ROTATED, MICA_KV_KEYS_RELATIVE, MICA_KV_KEYS_UNROTATED};
  for (const mica_kv_keys from : all)
    for (const mica_kv_keys to : all) {
      Shape s = small();
      s.keys = from;
      Model a(GetParam(), s);
      a.step({{0, 30}}, 1);
      const Bytes bytes = a.save(0);
      s.keys = to;
      Model b(GetParam(), s);
      mica_kv_loaded loaded{};
      ASSERT_EQ(b.load(bytes, 1, &loaded), MICA_OK) << b.error();
      const bool other = (from == MICA_KV_KEYS_UNROTATED) != (to == MICA_KV_KEYS_UNROTATED);
      EXPECT_EQ(loaded.needs_shift != 0, other) << from << " to " << to;
      EXPECT_EQ(loaded.converted != 0, other) << from << " to " << to;
      uint64_t n = 0;
      ASSERT_EQ(mica_kv_reserve_shift(b.cache.get(), 0, &n), MICA_OK);
      EXPECT_EQ(n, other ? 30u : 0u);
      if (!other) continue;
      uint32_t n_words = 0;
      const int32_t* words = mica::kv_step_data(b.cache.get(), mica::kv_shifts_of(0), &n_words);
      EXPECT_EQ(words[1 + MICA_KV_SHIFT_FROM_DIV], from == MICA_KV_KEYS_UNROTATED ? INT32_MAX : 1);
      EXPECT_EQ(words[1 + MICA_KV_SHIFT_TO_DIV], to == MICA_KV_KEYS_UNROTATED ? INT32_MAX : 1);
      ASSERT_EQ(mica_kv_commit(b.cache.get()), MICA_OK);
      ASSERT_EQ(mica_kv_reserve_shift(b.cache.get(), 0, &n), MICA_OK);
      EXPECT_EQ(n, 0u);
    }
}

// A folder of a test's own.
struct Folder {
  std::string path = testing::TempDir() + "kv_state_XXXXXX";
  Folder() { EXPECT_NE(mkdtemp(path.data()), nullptr); }
  ~Folder() { std::filesystem::remove_all(path); }
  size_t n_files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path), {}));
  }
};

TEST_P(KvState, IsAFile) {
  Model a(GetParam(), small());
  a.step({{0, 3}}, 1);
  const Folder folder;
  const std::string path = folder.path + "/a";
  ASSERT_EQ(mica_kv_save(a.session.get(), 0, 7, path.c_str()), MICA_OK) << a.error();
  a.step({{0, 3}}, 2);
  Model b(GetParam(), small());
  ASSERT_EQ(mica_kv_load(b.session.get(), 1, 7, path.c_str(), nullptr), MICA_OK) << b.error();
  EXPECT_EQ(mica_kv_seq_next(b.cache.get(), 1), 3);
  // A save that fails leaves the old file and no other.
  const int32_t cancel = 1;
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.cancel = &cancel;
  Model c(GetParam(), small(), &params);
  ASSERT_EQ(mica_kv_reserve(c.cache.get(), 1, &kNext[1]), MICA_OK);
  ASSERT_EQ(mica_kv_commit(c.cache.get()), MICA_OK);
  EXPECT_EQ(mica_kv_save(c.session.get(), 0, 7, path.c_str()), MICA_CANCELLED);
  EXPECT_EQ(mica_kv_load(c.session.get(), 1, 7, path.c_str(), nullptr), MICA_CANCELLED);
  ASSERT_EQ(mica_kv_load(b.session.get(), 0, 7, path.c_str(), nullptr), MICA_OK) << b.error();
  ASSERT_EQ(truncate(path.c_str(), 100), 0);
  EXPECT_EQ(mica_kv_load(a.session.get(), 1, 7, path.c_str(), nullptr), MICA_BAD_FILE);
  EXPECT_TRUE(has(a.error(), "/a': kv load: the state ")) << a.error();
  EXPECT_EQ(folder.n_files(), 1u);
  unlink(path.c_str());
  EXPECT_EQ(mica_kv_load(a.session.get(), 1, 7, path.c_str(), nullptr), MICA_NOT_FOUND);
  EXPECT_EQ(mica_kv_load(a.session.get(), 1, 7, "/", nullptr), MICA_IO);
  EXPECT_EQ(mica_kv_save(a.session.get(), 0, 7, "/no/such/place"), MICA_IO);
  EXPECT_EQ(a.error(), "kv save: cannot write '/no/such/place': there is no such folder");
}

// Nothing but a regular file is replaced, read or waited for.
TEST_P(KvState, OtherThingsThanFilesStay) {
  Model a(GetParam(), small());
  a.step({{0, 3}}, 1);
  const Folder folder;
  const auto at = [&](const char* name) { return folder.path + "/" + name; };
  const auto save = [&](const std::string& path) {
    return mica_kv_save(a.session.get(), 0, 7, path.c_str());
  };
  const auto mode = [&](const char* name) {
    struct stat info {};
    EXPECT_EQ(lstat(at(name).c_str(), &info), 0) << name;
    return info.st_mode & S_IFMT;
  };
  ASSERT_EQ(mkfifo(at("fifo").c_str(), 0600), 0);
  ASSERT_EQ(symlink("fifo", at("to_fifo").c_str()), 0);
  ASSERT_EQ(symlink("nothing", at("to_nothing").c_str()), 0);
  ASSERT_EQ(symlink("file", at("link").c_str()), 0);
  for (const char* name : {"fifo", "to_fifo", "to_nothing", ""}) {
    EXPECT_EQ(save(at(name)), MICA_IO) << name;
    EXPECT_NE(a.error(), "");
  }
  EXPECT_EQ(mode("fifo"), unsigned{S_IFIFO});
  EXPECT_EQ(mica_kv_load(a.session.get(), 1, 7, at("to_fifo").c_str(), nullptr), MICA_IO);
  EXPECT_TRUE(has(a.error(), "is not a regular file")) << a.error();
  EXPECT_EQ(folder.n_files(), 4u);
  // A link stays, and what it leads to is new. What stands at the unfinished file's name does too.
  ASSERT_EQ(save(at("file")), MICA_OK) << a.error();
  ASSERT_EQ(truncate(at("file").c_str(), 1), 0);
  ASSERT_EQ(mkfifo((at("file.part") + std::to_string(getpid()) + ".0").c_str(), 0600), 0);
  ASSERT_EQ(save(at("link")), MICA_OK) << a.error();
  EXPECT_EQ(mode("link"), unsigned{S_IFLNK});
  EXPECT_EQ(folder.n_files(), 6u);
  EXPECT_EQ(mica_kv_load(a.session.get(), 1, 7, at("file").c_str(), nullptr), MICA_OK);
  EXPECT_EQ(save(""), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(a.error(), "kv save: the path is empty");
  EXPECT_EQ(mica_kv_load(a.session.get(), 1, 7, "", nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(a.error(), "kv load: the path is empty");
}

TEST_P(KvState, AWriteThatFailsEndsTheSave) {
  Model a(GetParam(), small());
  a.step({{0, 3}}, 1);
  const Bytes whole = a.save();
  Bytes out;
  for (size_t limit = 0; limit < whole.size(); ++limit)
    ASSERT_EQ(a.save(0, out, limit), MICA_IO) << limit;
  EXPECT_EQ(a.error(), "kv save: reading or writing failed");
  EXPECT_EQ(a.save(0, out, whole.size()), MICA_OK);
}

TEST_P(KvState, RefusesWrongTimes) {
  Model a(GetParam(), small());
  a.step({{0, 3}}, 1);
  const Bytes whole = a.save();
  Bytes out;
  EXPECT_EQ(a.save(2, out), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(a.error(), "kv save: sequence 2 of a cache with max_seqs 2");
  const mica_kv_span span = {0, 1};
  ASSERT_EQ(mica_kv_reserve(a.cache.get(), 1, &span), MICA_OK);
  EXPECT_EQ(a.save(0, out), MICA_BUSY);
  EXPECT_EQ(a.load(whole, 1), MICA_BUSY);
  mica_kv_abandon(a.cache.get());
  const Session none = make_session(a.device);
  uint64_t bytes = 0;
  EXPECT_EQ(mica_kv_state_bytes(none.get(), 0, &bytes), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(a.error(), "kv save: the session has no KV cache");
  EXPECT_EQ(mica_kv_save(nullptr, 0, 0, "x"), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_save(a.session.get(), 0, 0, nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_save_to(a.session.get(), 0, 0, nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_load(nullptr, 0, 0, "x", nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_load(a.session.get(), 0, 0, nullptr, nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_load_from(a.session.get(), 0, 0, nullptr, nullptr), MICA_INVALID_ARGUMENT);
}

TEST_P(KvState, MemoryMayRunOut) {
  CountingAllocator memory;
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.allocator = memory.get();
  Model a(GetParam(), small(), &params);
  a.step({{0, 3}}, 1);
  const Bytes whole = a.save();
  const int64_t live = memory.n_live();
  const std::vector<int64_t> before = a.snapshot();
  Bytes out;
  int n_failed = 0;
  for (const bool saves : {true, false})
    for (int64_t n = 0;; ++n) {
      memory.fail_at(n, true);
      const mica_status status = saves ? a.save(0, out) : a.load(whole, 1);
      memory.never_fail();
      if (status == MICA_OK) break;
      ++n_failed;
      ASSERT_EQ(status, MICA_OUT_OF_MEMORY);
      ASSERT_EQ(memory.n_live(), live);
      ASSERT_EQ(a.snapshot(), before);
    }
  EXPECT_GT(n_failed, 8);
  EXPECT_EQ(memory.n_live(), live);
}

// Pages are filled while they are free, so that what an edit took may be gone though a load fails.
TEST_P(KvState, ALoadThatWritesForgetsAMark) {
  Shape shape;
  shape.layers = {layer(MICA_F16, MICA_F16)};
  Model m(GetParam(), shape);
  m.fill();
  const Bytes good = m.save();
  for (const bool writes : {false, true}) {
    Bytes bad = good;
    bad[writes ? bad.size() - 20 : 9] ^= 1;
    ASSERT_EQ(mica_kv_mark(m.cache.get()), MICA_OK);
    ASSERT_EQ(mica_kv_clear(m.cache.get()), MICA_OK);
    EXPECT_NE(m.load(bad), MICA_OK);
    EXPECT_EQ(mica_kv_undo(m.cache.get()), writes ? MICA_INVALID_ARGUMENT : MICA_OK) << m.error();
    EXPECT_EQ(writes, m.save() != good);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, KvState, testing::Values("ref", "cpu"));

}  // namespace
