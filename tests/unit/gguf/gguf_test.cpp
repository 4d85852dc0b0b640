// The GGUF reader on sound files: values and their conversions, tensors, both modes, misuse of the
// API, running out of memory and cancelling.
#include "mica/gguf.h"

#include <cmath>
#include <cstdlib>

#include "gguf_builder.h"
#include "tests/fuzz/gguf_walk.h"

namespace {

using namespace gguf_test;

class GgufValues : public GgufTest, public testing::WithParamInterface<mica_gguf_mode> {
 protected:
  GgufValues() : mem_(sample().bytes()) {
    EXPECT_EQ(mica_gguf_open(context_, mem_.path().c_str(), GetParam(), &file_), MICA_OK)
        << error();
  }
  ~GgufValues() override { mica_gguf_release(file_); }

  MemFile mem_;
  mica_gguf* file_ = nullptr;
};
INSTANTIATE_TEST_SUITE_P(Modes, GgufValues, testing::Values(MICA_GGUF_MAP, MICA_GGUF_READ));

TEST_P(GgufValues, ListsKeysInFileOrder) {
  ASSERT_NE(file_, nullptr);
  EXPECT_EQ(mica_gguf_version(file_), 3u);
  ASSERT_EQ(mica_gguf_n_keys(file_), sample().keys.size());
  mica_gguf_type type, elem;
  uint64_t n = 0;
  EXPECT_STREQ(mica_gguf_key_at(file_, 0, &type, &elem, &n), "general.architecture");
  EXPECT_EQ(type, MICA_GGUF_STRING);
  EXPECT_EQ(n, 1u);
  EXPECT_STREQ(mica_gguf_key_at(file_, 23, &type, &elem, &n), "a.text");
  EXPECT_EQ(type, MICA_GGUF_ARRAY);
  EXPECT_EQ(elem, MICA_GGUF_STRING);
  EXPECT_EQ(n, 4u);
  EXPECT_STREQ(mica_gguf_key_at(file_, 24, nullptr, nullptr, nullptr), "a.a");
  EXPECT_EQ(mica_gguf_key_at(file_, 25, &type, &elem, &n), nullptr);
  EXPECT_EQ(mica_gguf_has(file_, "n.u8"), 1);
  EXPECT_EQ(mica_gguf_has(file_, "n.u"), 0);
}

TEST_P(GgufValues, RawKeysAreTheFilesBytes) {
  const File f = sample();
  for (size_t i = 0; i < f.keys.size(); ++i) {
    size_t bytes = 0;
    const void* raw = mica_gguf_key_raw(file_, i, &bytes);
    ASSERT_NE(raw, nullptr);
    EXPECT_EQ(std::string(static_cast<const char*>(raw), bytes), f.keys[i]) << i;
  }
  size_t bytes = 0;
  EXPECT_EQ(mica_gguf_key_raw(file_, f.keys.size(), &bytes), nullptr);
  EXPECT_EQ(mica_gguf_key_raw(nullptr, 0, &bytes), nullptr);
}

TEST_P(GgufValues, ConvertsOnlyWithoutLoss) {
  struct Case {
    const char* key;
    bool u32, u64, i64, f32, f64;
    double value;
  };
  const Case cases[] = {
      {"n.u8", true, true, true, true, true, 200},
      {"n.i8", false, false, true, true, true, -100},
      {"n.u16", true, true, true, true, true, 60000},
      {"n.i16", false, false, true, true, true, -30000},
      {"n.u32", true, true, true, true, true, 4e9},  // 4e9 = 2^11 * 1953125: 21 bits
      {"n.i32", false, false, true, true, true, -2e9},
      {"n.u64", false, true, false, false, false, 18446744073709551615.0},
      {"n.i64", false, false, true, true, true, -9223372036854775808.0},
      {"n.f32", false, false, false, true, true, 0.25},
      {"n.f64", false, false, false, false, true, 0.1},
      {"n.true", true, true, true, true, true, 1},
      {"empty", false, false, false, false, false, 0},
      {"a.u8", false, false, false, false, false, 0},
  };
  for (const Case& c : cases) {
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    int64_t i64 = 0;
    float f32 = 0;
    double f64 = 0;
    const auto want = [](bool ok) { return ok ? MICA_OK : MICA_INVALID_ARGUMENT; };
    EXPECT_EQ(mica_gguf_get_u32(file_, c.key, &u32), want(c.u32)) << c.key;
    EXPECT_EQ(mica_gguf_get_u64(file_, c.key, &u64), want(c.u64)) << c.key;
    EXPECT_EQ(mica_gguf_get_i64(file_, c.key, &i64), want(c.i64)) << c.key;
    EXPECT_EQ(mica_gguf_get_f32(file_, c.key, &f32), want(c.f32)) << c.key;
    EXPECT_EQ(mica_gguf_get_f64(file_, c.key, &f64), want(c.f64)) << c.key;
    if (c.u32) {
      EXPECT_EQ(static_cast<double>(u32), c.value) << c.key;
    }
    if (c.u64) {
      EXPECT_EQ(static_cast<double>(u64), c.value) << c.key;
    }
    if (c.i64) {
      EXPECT_EQ(static_cast<double>(i64), c.value) << c.key;
    }
    if (c.f32) {
      EXPECT_EQ(static_cast<double>(f32), c.value) << c.key;
    }
    if (c.f64) {
      EXPECT_EQ(f64, c.value) << c.key;
    }
  }
  uint64_t u64 = 0;
  EXPECT_EQ(mica_gguf_get_u64(file_, "n.u64", &u64), MICA_OK);
  EXPECT_EQ(u64, UINT64_MAX);
}

TEST_P(GgufValues, SaysWhatIsWrong) {
  uint32_t u32 = 0;
  float f32 = 0;
  int truth = 0;
  const char* data = nullptr;
  size_t size = 0;
  EXPECT_EQ(mica_gguf_get_u32(file_, "gone", &u32), MICA_NOT_FOUND);
  EXPECT_EQ(error(), "key 'gone' is not in the file");
  EXPECT_EQ(mica_gguf_get_u32(file_, "n.i8", &u32), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "key 'n.i8' is -100, which u32 cannot hold exactly");
  EXPECT_EQ(mica_gguf_get_u32(file_, "n.f32", &u32), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "key 'n.f32' is of type f32, wanted u32");
  EXPECT_EQ(mica_gguf_get_f32(file_, "general.architecture", &f32), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "key 'general.architecture' is of type string, wanted f32");
  EXPECT_EQ(mica_gguf_get_string(file_, "a.u8", &data, &size), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "key 'a.u8' is of type array of u8, wanted string");
  EXPECT_EQ(mica_gguf_get_bool(file_, "n.u8", &truth), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_array_f32(file_, "a.text", 0, 1, &f32), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "key 'a.text' is of type array of string, wanted array of numbers");
  EXPECT_EQ(mica_gguf_array_f32(file_, "a.a", 0, 1, &f32), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_array_string(file_, "a.a", 0, &data, &size), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_array_string(file_, "a.text", 4, &data, &size), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "key 'a.text' has 4 elements; 1 from 4 on were asked for");
}

TEST_P(GgufValues, BoolsAndStrings) {
  int truth = -1;
  EXPECT_EQ(mica_gguf_get_bool(file_, "n.true", &truth), MICA_OK);
  EXPECT_EQ(truth, 1);
  EXPECT_EQ(mica_gguf_get_bool(file_, "n.false", &truth), MICA_OK);
  EXPECT_EQ(truth, 0);
  const char* data = nullptr;
  size_t size = 9;
  EXPECT_EQ(mica_gguf_get_string(file_, "empty", &data, &size), MICA_OK);
  EXPECT_EQ(size, 0u);
  EXPECT_EQ(mica_gguf_get_string(file_, "raw", &data, &size), MICA_OK);
  EXPECT_EQ(std::string(data, size), std::string("a\0b\x1b[31m", 8));
}

TEST_P(GgufValues, Arrays) {
  uint64_t n = 0;
  EXPECT_EQ(mica_gguf_array_size(file_, "a.a", &n), MICA_OK);
  EXPECT_EQ(n, 2u);
  EXPECT_EQ(mica_gguf_array_size(file_, "a.empty", &n), MICA_OK);
  EXPECT_EQ(n, 0u);
  EXPECT_EQ(mica_gguf_array_size(file_, "n.u8", &n), MICA_INVALID_ARGUMENT);
  int64_t ints[3];
  EXPECT_EQ(mica_gguf_array_i64(file_, "a.i32", 0, 3, ints), MICA_OK);
  EXPECT_EQ(ints[0], -1);
  EXPECT_EQ(ints[2], 7);
  EXPECT_EQ(mica_gguf_array_i64(file_, "a.u8", 1, 2, ints), MICA_OK);
  EXPECT_EQ(ints[1], 255);
  EXPECT_EQ(mica_gguf_array_i64(file_, "a.bool", 0, 2, ints), MICA_OK);
  EXPECT_EQ(ints[0], 1);
  EXPECT_EQ(mica_gguf_array_i64(file_, "a.f32", 0, 1, ints), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_array_i64(file_, "a.u64", 0, 1, ints), MICA_OK);
  EXPECT_EQ(mica_gguf_array_i64(file_, "a.u64", 0, 2, ints), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "key 'a.u64'[1] is 18446744073709551615, which i64 cannot hold exactly");
  float floats[3];
  EXPECT_EQ(mica_gguf_array_f32(file_, "a.f32", 0, 2, floats), MICA_OK);
  EXPECT_EQ(floats[1], -3.0f);
  EXPECT_EQ(mica_gguf_array_f32(file_, "a.f64", 0, 1, floats), MICA_OK);
  EXPECT_EQ(mica_gguf_array_f32(file_, "a.f64", 0, 2, floats), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_array_f32(file_, "a.i32", 0, 3, floats), MICA_OK);
  EXPECT_EQ(mica_gguf_array_f32(file_, "a.i32", 1, 3, floats), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_array_f32(file_, "a.i32", UINT64_MAX, 2, floats), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_array_f32(file_, "a.empty", 0, 0, nullptr), MICA_OK);
  const char* const words[] = {"one", "", "three", "four"};
  for (const uint64_t i : {0, 1, 2, 3, 3, 1, 0, 2}) {  // forwards, again, backwards
    const char* data = nullptr;
    size_t size = 0;
    ASSERT_EQ(mica_gguf_array_string(file_, "a.text", i, &data, &size), MICA_OK);
    EXPECT_EQ(std::string(data, size), words[i]);
  }
}

TEST_P(GgufValues, Tensors) {
  const std::string data = sample().data;
  ASSERT_EQ(mica_gguf_n_tensors(file_), 3u);
  const mica_gguf_tensor* b = mica_gguf_tensor_at(file_, 0);
  ASSERT_NE(b, nullptr);
  EXPECT_STREQ(b->name, "b.weight");
  EXPECT_EQ(b->dtype, MICA_Q4_0);
  EXPECT_EQ(b->rank, 2u);
  EXPECT_EQ(b->dim[0], 32);
  EXPECT_EQ(b->dim[1], 2);
  EXPECT_EQ(b->dim[2], 1);
  EXPECT_EQ(b->bytes, 36u);
  EXPECT_EQ(b->offset % 32, 0u);
  EXPECT_EQ(mica_gguf_tensor_find(file_, "b.weight"), b);
  EXPECT_EQ(mica_gguf_tensor_find(file_, "b.weigh"), nullptr);
  EXPECT_EQ(mica_gguf_tensor_at(file_, 3), nullptr);
  EXPECT_EQ(mica_gguf_tensor_at(file_, UINT64_MAX), nullptr);
  std::string got(36, 'x');
  ASSERT_EQ(mica_gguf_read(file_, b, 0, 36, got.data()), MICA_OK);
  EXPECT_EQ(got, data.substr(64, 36));
  ASSERT_EQ(mica_gguf_read(file_, b, 30, 6, got.data()), MICA_OK);
  EXPECT_EQ(got.substr(0, 6), data.substr(94, 6));
  EXPECT_EQ(mica_gguf_read(file_, b, 30, 7, got.data()), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_read(file_, b, UINT64_MAX, 7, got.data()), MICA_INVALID_ARGUMENT);
  const void* map = mica_gguf_map(file_, b);
  if (GetParam() == MICA_GGUF_READ) {
    EXPECT_EQ(map, nullptr);
  } else {
    ASSERT_NE(map, nullptr);
    EXPECT_EQ(std::memcmp(map, data.data() + 64, 36), 0);
  }
}

TEST_P(GgufValues, TensorsOfOtherFilesAreRefused) {
  mica_gguf_tensor forged = *mica_gguf_tensor_at(file_, 0);
  forged.offset = 0;
  char c = 0;
  EXPECT_EQ(mica_gguf_read(file_, &forged, 0, 1, &c), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_map(file_, &forged), nullptr);
  const auto* inside = reinterpret_cast<const mica_gguf_tensor*>(
      reinterpret_cast<const char*>(mica_gguf_tensor_at(file_, 0)) + 8);
  EXPECT_EQ(mica_gguf_read(file_, inside, 0, 1, &c), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_read(file_, nullptr, 0, 1, &c), MICA_INVALID_ARGUMENT);
}

TEST_P(GgufValues, NullArguments) {
  mica_gguf* file = file_;
  EXPECT_EQ(mica_gguf_open(nullptr, "x", GetParam(), &file), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(file, nullptr);
  EXPECT_EQ(mica_gguf_open(context_, nullptr, GetParam(), &file), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_open(context_, "x", GetParam(), nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_gguf_open(context_, "x", static_cast<mica_gguf_mode>(7), &file),
            MICA_INVALID_ARGUMENT);
  mica_gguf_release(nullptr);
  for (mica_gguf* f : {file_, static_cast<mica_gguf*>(nullptr)}) {
    const char* k = f != nullptr ? "n.u8" : nullptr;
    EXPECT_EQ(mica_gguf_get_u32(f, k, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_get_u64(f, k, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_get_i64(f, k, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_get_f32(f, k, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_get_f64(f, k, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_get_bool(f, k, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_get_string(f, k, nullptr, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_array_size(f, k, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_array_i64(f, k, 0, 1, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_array_f32(f, k, 0, 1, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_array_string(f, k, 0, nullptr, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_has(f, nullptr), 0);
    EXPECT_EQ(mica_gguf_tensor_find(f, nullptr), nullptr);
    uint32_t u32 = 0;
    EXPECT_EQ(mica_gguf_get_u32(f, nullptr, &u32), MICA_INVALID_ARGUMENT);
    char c = 0;
    const mica_gguf_tensor* t = mica_gguf_tensor_at(f, 0);
    EXPECT_EQ(mica_gguf_read(f, t, 0, 1, nullptr), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_gguf_read(nullptr, t, 0, 1, &c), MICA_INVALID_ARGUMENT);
  }
  EXPECT_EQ(mica_gguf_version(nullptr), 0u);
  EXPECT_EQ(mica_gguf_n_keys(nullptr), 0u);
  EXPECT_EQ(mica_gguf_n_tensors(nullptr), 0u);
  EXPECT_EQ(mica_gguf_key_at(nullptr, 0, nullptr, nullptr, nullptr), nullptr);
  EXPECT_EQ(mica_gguf_tensor_at(nullptr, 0), nullptr);
  EXPECT_EQ(mica_gguf_map(nullptr, nullptr), nullptr);
}

TEST_F(GgufTest, Version2AndOtherAlignments) {
  for (const uint32_t align : {8u, 64u, 4096u, 1048576u}) {
    File f = sample();
    f.version = 2;
    f.align = align;
    f.keys[1] = key<uint32_t>("general.alignment", MICA_GGUF_U32, align);
    f.tensors = {tensor("one", {3}, MICA_F32, 0), tensor("two", {1}, MICA_I64, align)};
    f.data.assign(12, 'a');
    if (align == 8) f.tensors[1] = tensor("two", {1}, MICA_I64, 16);
    f.data.resize(align == 8 ? 16 : align, '\0');
    f.data += "12345678";
    const MemFile mem(f.bytes());
    for (const mica_gguf_mode mode : {MICA_GGUF_MAP, MICA_GGUF_READ}) {
      mica_gguf* file = nullptr;
      ASSERT_EQ(mica_gguf_open(context_, mem.path().c_str(), mode, &file), MICA_OK) << error();
      EXPECT_EQ(mica_gguf_version(file), 2u);
      char got[8];
      EXPECT_EQ(mica_gguf_read(file, mica_gguf_tensor_find(file, "two"), 0, 8, got), MICA_OK);
      EXPECT_EQ(std::string(got, 8), "12345678");
      mica_gguf_release(file);
    }
  }
}

TEST_F(GgufTest, AnEmptyFileWithoutKeysOrTensorsIsSound) {
  const MemFile mem(File().bytes());
  EXPECT_EQ(gguf_walk::walk(context_, mem.path().c_str(), MICA_GGUF_MAP), MICA_OK) << error();
  EXPECT_EQ(gguf_walk::walk(context_, mem.path().c_str(), MICA_GGUF_READ), MICA_OK) << error();
}

TEST_F(GgufTest, LongMetadataGrowsTheBufferOfReadMode) {
  File f = sample();
  f.keys.push_back(string_key("long", std::string(700000, 'y')));
  f.keys.push_back(array_key("many", MICA_GGUF_STRING, 50000,
                             strings(std::vector<std::string>(50000, "token"))));
  const MemFile mem(f.bytes());
  for (const mica_gguf_mode mode : {MICA_GGUF_MAP, MICA_GGUF_READ}) {
    EXPECT_EQ(gguf_walk::walk(context_, mem.path().c_str(), mode), MICA_OK) << error();
  }
}

TEST(GgufLife, TheContextMayGoFirst) {
  mica_context* context = nullptr;
  ASSERT_EQ(mica_context_create(nullptr, &context), MICA_OK);
  const MemFile mem(sample().bytes());
  mica_gguf* file = nullptr;
  ASSERT_EQ(mica_gguf_open(context, mem.path().c_str(), MICA_GGUF_MAP, &file), MICA_OK);
  mica_context_release(context);
  uint32_t u32 = 0;
  EXPECT_EQ(mica_gguf_get_u32(file, "gone", &u32), MICA_NOT_FOUND);
  mica_gguf_release(file);
}

// Fails allocation number `fail_at`, or that and all later ones.
struct Faults {
  int count = 0;
  int fail_at = -1;
  bool for_ever = false;
  int live = 0;
  static void* alloc(void* user, size_t bytes, size_t align) {
    auto* f = static_cast<Faults*>(user);
    const int i = f->count++;
    if (f->fail_at >= 0 && (f->for_ever ? i >= f->fail_at : i == f->fail_at)) return nullptr;
    ++f->live;
    return std::aligned_alloc(align, (bytes + align - 1) / align * align);
  }
  static void free(void* user, void* ptr, size_t) {
    --static_cast<Faults*>(user)->live;
    std::free(ptr);
  }
};

TEST(GgufFaults, EveryAllocationMayFail) {
  const MemFile mem(sample().bytes());
  for (const bool for_ever : {false, true}) {
    for (const mica_gguf_mode mode : {MICA_GGUF_MAP, MICA_GGUF_READ}) {
      int failures = 0;
      for (int n = 0;; ++n) {
        Faults faults;
        const mica_allocator allocator = {&faults, Faults::alloc, Faults::free};
        mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
        params.allocator = &allocator;
        mica_context* context = nullptr;
        ASSERT_EQ(mica_context_create(&params, &context), MICA_OK);
        faults.count = 0;
        faults.fail_at = n;
        faults.for_ever = for_ever;
        const mica_status status = gguf_walk::walk(context, mem.path().c_str(), mode);
        const bool done = faults.count <= n;  // no allocation failed any more
        EXPECT_EQ(status, done ? MICA_OK : MICA_OUT_OF_MEMORY);
        if (!done) {
          EXPECT_NE(std::string(mica_context_error(context)).find("out of memory"),
                    std::string::npos)
              << mica_context_error(context);
        }
        mica_context_release(context);
        EXPECT_EQ(faults.live, 0);
        if (done) break;
        ++failures;
      }
      EXPECT_GE(failures, 6);
    }
  }
}

TEST(GgufFaults, Cancel) {
  const MemFile mem(sample().bytes());
  const volatile int32_t cancel = 1;
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.cancel = &cancel;
  mica_context* context = nullptr;
  ASSERT_EQ(mica_context_create(&params, &context), MICA_OK);
  EXPECT_EQ(gguf_walk::walk(context, mem.path().c_str(), MICA_GGUF_MAP), MICA_CANCELLED);
  EXPECT_EQ(gguf_walk::walk(context, mem.path().c_str(), MICA_GGUF_READ), MICA_CANCELLED);
  mica_context_release(context);
}

}  // namespace
