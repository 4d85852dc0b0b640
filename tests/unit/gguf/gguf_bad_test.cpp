// The GGUF reader on damaged and hostile files: by class of known loader bugs, every truncation,
// and random mutants. Each must end in a status and one printable sentence, in both modes.
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <random>

#include "gguf_builder.h"
#include "tests/fuzz/gguf_walk.h"

namespace {

using namespace gguf_test;

class GgufBad : public GgufTest {
 protected:
  // Both modes must give `status`, with `words` in the sentence.
  void expect(const std::string& bytes, mica_status status, const std::string& words) {
    const MemFile mem(bytes);
    expect_path(mem.path(), status, words);
  }
  void expect_path(const std::string& path, mica_status status, const std::string& words) {
    for (const mica_gguf_mode mode : {MICA_GGUF_MAP, MICA_GGUF_READ}) {
      EXPECT_EQ(gguf_walk::walk(context_, path.c_str(), mode), status) << words;
      EXPECT_NE(error().find(words), std::string::npos) << "'" << error() << "' lacks " << words;
    }
  }
  void expect_key(const std::string& spoilt, const std::string& words) {
    File f = sample();
    f.keys[2] = spoilt;
    expect(f.bytes(), MICA_BAD_FILE, words);
  }
  void expect_tensor(const std::string& spoilt, const std::string& words,
                     mica_status status = MICA_BAD_FILE) {
    File f = sample();
    f.tensors[1] = spoilt;
    expect(f.bytes(), status, words);
  }
};

TEST_F(GgufBad, MagicAndVersion) {
  File f = sample();
  f.magic = 0x46554748;
  expect(f.bytes(), MICA_BAD_FILE, "not a GGUF file");
  expect("GGU", MICA_BAD_FILE, "cut off");
  f = sample();
  for (const uint32_t version : {1u, 4u, 0x7fffffffu}) {
    f.version = version;
    expect(f.bytes(), MICA_UNSUPPORTED, "GGUF version");
  }
  f.version = 0;
  expect(f.bytes(), MICA_BAD_FILE, "GGUF version 0");
  f.version = 0x03000000;
  expect(f.bytes(), MICA_UNSUPPORTED, "big-endian");
}

TEST_F(GgufBad, Class1Counts) {
  for (const int64_t n : {int64_t{26}, int64_t{1} << 20, int64_t{1} << 61, INT64_MAX}) {
    File f = sample();
    f.n_keys = n;
    expect(f.bytes(), MICA_BAD_FILE, n > 1000 ? "keys cannot fit" : "");
    f = sample();
    f.n_tensors = n;
    expect(f.bytes(), MICA_BAD_FILE, n > 1000 ? "tensors cannot fit" : "");
  }
  for (const uint64_t n : {uint64_t{3}, uint64_t{1} << 29, (uint64_t{1} << 61) + 1, UINT64_MAX}) {
    for (const uint32_t type : {MICA_GGUF_F64, MICA_GGUF_STRING, MICA_GGUF_ARRAY, MICA_GGUF_BOOL}) {
      File f;
      f.keys = {array_key("k", type, n, "")};
      expect(f.bytes(), MICA_BAD_FILE, "key 'k': array of " + std::to_string(n));
    }
  }
  File f = sample();  // one key fewer than there are: a key is taken for a tensor
  f.n_keys = static_cast<int64_t>(f.keys.size()) - 1;
  expect(f.bytes(), MICA_BAD_FILE, "tensor");
}

TEST_F(GgufBad, Class2StringLengths) {
  for (const uint64_t n :
       {uint64_t{1000000}, uint64_t{1} << 32, uint64_t{1} << 63, UINT64_MAX - 8, UINT64_MAX}) {
    Bytes value;
    value.text("s").u32(MICA_GGUF_STRING).u64(n);
    expect_key(value.data, "key 's': the file is cut off");
    expect_key(array_key("s", MICA_GGUF_STRING, 1, Bytes().u64(n).data), "cut off");
    expect_key(Bytes().u64(n).data, "key 2 has a name of");
    expect_tensor(Bytes().u64(n).data, "tensor 1 has a name of");
  }
  expect_key(key<uint8_t>("", MICA_GGUF_U8, 1), "empty name");
  expect_key(key<uint8_t>(std::string(65536, 'k'), MICA_GGUF_U8, 1), "65536 bytes");
  expect_key(key<uint8_t>(std::string("h\0i", 3), MICA_GGUF_U8, 1),
             "NUL byte in its name 'h\\x00i'");
  expect_tensor(tensor("", {8}, MICA_F32, 0), "empty name");
  expect_tensor(tensor(std::string(65, 't'), {8}, MICA_F32, 0), "65 bytes, more than 64");
  expect_tensor(tensor(std::string("a\0", 2), {8}, MICA_F32, 0), "NUL byte");
  File f = sample();  // the longest names are fine
  f.keys[2] = key<uint8_t>(std::string(65535, 'k'), MICA_GGUF_U8, 1);
  f.tensors[1] = tensor(std::string(64, 't'), {8}, MICA_F32, 0);
  expect(f.bytes(), MICA_OK, "");
}

TEST_F(GgufBad, Class3DimsAndSizes) {
  const uint64_t big = uint64_t{1} << 62;
  expect_tensor(tensor("t", {0}, MICA_F32, 0), "tensor 't': dim[0] is 0");
  expect_tensor(tensor("t", {8, 0, 4}, MICA_F32, 0), "dim[1] is 0");
  expect_tensor(tensor("t", {uint64_t{1} << 63}, MICA_F32, 0), "dim[0] is 9223372036854775808");
  expect_tensor(tensor("t", {UINT64_MAX, 2}, MICA_F32, 0), "dim[0] is");
  expect_tensor(tensor("t", {big}, MICA_F32, 0), "does not fit in 63 bits");
  expect_tensor(tensor("t", {big, 2}, MICA_F16, 0), "does not fit");
  expect_tensor(tensor("t", {uint64_t{1} << 32, uint64_t{1} << 32, 16}, MICA_Q4_0, 0),
                "does not fit");
  expect_tensor(tensor("t", {32, big, 4, 4}, MICA_Q4_0, 0), "does not fit");
  expect_tensor(tensor("t", {INT64_MAX}, MICA_F32, 0), "does not fit");
  // Bytes fit, the padded size would not; the file is simply too short.
  expect_tensor(tensor("t", {INT64_MAX / 2}, MICA_F16, 0), "reach past the data's end");
  expect_tensor(tensor("t", {31}, MICA_Q4_0, 0), "not a multiple of 32");
  expect_tensor(tensor("t", {128, 2}, MICA_Q4_K, 0), "not a multiple of 256");
  expect_tensor(tensor("t", {}, MICA_F32, 0), "rank is 0");
  expect_tensor(tensor("t", {1, 1, 1, 1, 1}, MICA_F32, 0), "rank is 5");
  expect_tensor(Bytes().text("t").u32(UINT32_MAX).data, "rank is 4294967295");
}

TEST_F(GgufBad, Class4TypeNumbers) {
  for (const uint32_t type : {13u, 255u, 0x80000000u, UINT32_MAX}) {
    expect_key(key<uint64_t>("k", type, 0), "key 'k': unknown type");
    expect_key(array_key("k", type, 1, "12345678"), "array of unknown type");
  }
  for (const uint32_t type : {4u, 5u, 31u, 32u, 33u, 0x80000000u, UINT32_MAX}) {
    expect_tensor(tensor("t", {256}, type, 0), "tensor 't': unknown type");
  }
  expect_tensor(tensor("t", {256}, 10, 0), "type Q2_K is not in this build", MICA_UNSUPPORTED);
  expect_tensor(tensor("t", {32}, 39, 0), "type MXFP4 is not in this build", MICA_UNSUPPORTED);
  for (const uint8_t value : std::vector<uint8_t>{2, 128, 255}) {
    expect_key(key<uint8_t>("k", MICA_GGUF_BOOL, value), "a bool is");
    expect_key(array_key("k", MICA_GGUF_BOOL, 2, numbers<uint8_t>({1, value})), "a bool is");
  }
}

TEST_F(GgufBad, Class5Alignment) {
  for (const uint32_t align : {0u, 1u, 4u, 24u, 33u, 1u << 21, 1u << 31, UINT32_MAX}) {
    File f = sample();
    f.keys[1] = key<uint32_t>("general.alignment", MICA_GGUF_U32, align);
    expect(f.bytes(), MICA_BAD_FILE, "'general.alignment' is " + std::to_string(align));
  }
  for (const uint32_t type : {MICA_GGUF_U64, MICA_GGUF_I64, MICA_GGUF_F64}) {
    File f = sample();
    f.keys[1] = key<uint64_t>("general.alignment", type, 32);
    expect(f.bytes(), MICA_BAD_FILE, "'general.alignment' is of type");
  }
  File f = sample();
  f.keys[1] = string_key("general.alignment", "32");
  expect(f.bytes(), MICA_BAD_FILE, "of type string, not u32");
  f.keys[1] = array_key("general.alignment", MICA_GGUF_U32, 1, numbers<uint32_t>({32}));
  expect(f.bytes(), MICA_BAD_FILE, "of type array, not u32");
}

TEST_F(GgufBad, Class6Offsets) {
  expect_tensor(tensor("t", {8}, MICA_F32, 4), "offset 4 is not a multiple of 32");
  expect_tensor(tensor("t", {8}, MICA_F32, 160), "reach past the data's end at 130");
  expect_tensor(tensor("t", {8}, MICA_F32, UINT64_MAX - 31), "reach past");
  expect_tensor(tensor("t", {8}, MICA_F32, uint64_t{1} << 63), "reach past");
  expect_tensor(tensor("t", {33}, MICA_F32, 0), "reach past");  // 132 bytes
  expect_tensor(tensor("t", {8}, MICA_F32, 64), "overlap");     // the same place as b.weight
  expect_tensor(tensor("t", {17}, MICA_F32, 0), "'t' and 'b.weight' overlap");  // by 4 bytes
  expect_tensor(tensor("t", {16}, MICA_F32, 0), "", MICA_OK);                   // up to it
  File f = sample();
  f.data.resize(129);  // the last tensor lacks its last byte
  expect(f.bytes(), MICA_BAD_FILE, "tensor 'c': 2 bytes at offset 128 reach past");
  f.data.clear();
  expect(f.bytes(), MICA_BAD_FILE, "cut off: no tensor data");
}

TEST_F(GgufBad, Class7EveryTruncation) {
  const std::string whole = sample().bytes();
  const MemFile mem(whole);
  for (size_t n = whole.size(); n-- > 0;) {
    ASSERT_EQ(ftruncate(mem.fd(), static_cast<off_t>(n)), 0);
    expect_path(mem.path(), MICA_BAD_FILE, n == 0 ? "empty" : "");
  }
}

TEST_F(GgufBad, Class7NotARegularFile) {
  expect_path("/tmp", MICA_IO, "'/tmp': is a directory");
  expect_path("/dev/zero", MICA_IO, "is not a regular file");
  expect_path("/nowhere/x.gguf", MICA_NOT_FOUND, "'/nowhere/x.gguf': there is no such file");
  expect_path("", MICA_NOT_FOUND, "there is no such file");
  expect_path("/" + std::string(5000, 'x'), MICA_IO, "...'xxx");
  std::string dir = testing::TempDir() + "mica_gguf_XXXXXX";
  ASSERT_NE(mkdtemp(dir.data()), nullptr);
  const std::string fifo = dir + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  expect_path(fifo, MICA_IO, "is not a regular file");  // and does not wait for a writer
  unlink(fifo.c_str());
  rmdir(dir.c_str());
}

TEST_F(GgufBad, Class7TheFileShrinksAfterOpening) {
  const std::string whole = sample().bytes();
  const MemFile mem(whole);
  mica_gguf* file = nullptr;
  ASSERT_EQ(mica_gguf_open(context_, mem.path().c_str(), MICA_GGUF_READ, &file), MICA_OK);
  ASSERT_EQ(ftruncate(mem.fd(), static_cast<off_t>(whole.size() - 40)), 0);
  char got[36];
  const mica_gguf_tensor* t = mica_gguf_tensor_find(file, "b.weight");
  EXPECT_EQ(mica_gguf_read(file, t, 0, 36, got), MICA_IO);
  EXPECT_EQ(error(), "tensor 'b.weight': the file became shorter while it was read");
  int64_t value = 0;  // metadata is in memory
  EXPECT_EQ(mica_gguf_get_i64(file, "n.i64", &value), MICA_OK);
  mica_gguf_release(file);
}

TEST_F(GgufBad, Class8NothingQuadratic) {
  const std::string prefix(100, 'p');  // long common prefixes: the worst for comparing
  File many_keys;
  for (int i = 0; i < 100000; ++i) {
    many_keys.keys.push_back(key<uint32_t>(prefix + std::to_string(i), MICA_GGUF_U32, 1));
  }
  File many_tensors;
  for (uint64_t i = 0; i < 60000; ++i) {
    many_tensors.tensors.push_back(
        tensor("blk." + std::to_string(i * 7919 % 60000), {8}, MICA_F32, i * 32));
  }
  many_tensors.data.assign(60000 * 32, 'x');
  File many_strings;
  many_strings.keys = {array_key("k", MICA_GGUF_STRING, 1000000, std::string(8000000, '\0'))};
  File many_arrays;
  std::string empty_arrays;
  for (int i = 0; i < 500000; ++i) empty_arrays += Bytes().u32(MICA_GGUF_U8).u64(0).data;
  many_arrays.keys = {array_key("k", MICA_GGUF_ARRAY, 500000, empty_arrays)};
  for (const File* f : {&many_keys, &many_tensors, &many_strings, &many_arrays}) {
    const MemFile mem(f->bytes());
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(gguf_walk::walk(context_, mem.path().c_str(), MICA_GGUF_READ), MICA_OK) << error();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    EXPECT_LT(seconds.count(), 60.0);  // well below a second but for sanitizers and a busy machine
  }
}

TEST_F(GgufBad, MoreKeysThanAnyModelHas) {
  const std::string zeros(64u << 20, '\0');
  const auto counts = [&](int64_t n_keys, int64_t n_tensors) {
    File f;
    f.n_keys = n_keys;
    f.n_tensors = n_tensors;
    return f.bytes() + zeros;
  };
  expect(counts((1 << 17) + 1, 0), MICA_UNSUPPORTED, "131073 keys and 0 tensors; 131072 and");
  expect(counts(0, (1 << 20) + 1), MICA_UNSUPPORTED, "0 keys and 1048577 tensors; 131072 and");
}

TEST_F(GgufBad, ALongArrayCanBeInterrupted) {
  File f;
  f.keys = {array_key("k", MICA_GGUF_STRING, 100000, std::string(800000, '\0'))};
  const MemFile mem(f.bytes());
  const volatile int32_t cancel = 1;
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.cancel = &cancel;
  mica_context* context = nullptr;
  ASSERT_EQ(mica_context_create(&params, &context), MICA_OK);
  for (const mica_gguf_mode mode : {MICA_GGUF_MAP, MICA_GGUF_READ}) {
    mica_gguf* file = nullptr;
    EXPECT_EQ(mica_gguf_open(context, mem.path().c_str(), mode, &file), MICA_CANCELLED);
  }
  mica_context_release(context);
}

TEST_F(GgufBad, Class9DeclaredTypesAreBelieved) {
  // `scores` as u8 where a caller reads f32: converted, never reinterpreted or over-read.
  File f;
  f.keys = {array_key("scores", MICA_GGUF_U8, 4, numbers<uint8_t>({1, 2, 3, 4})),
            array_key("type", MICA_GGUF_STRING, 1, strings({"x"}))};
  const MemFile mem(f.bytes());
  mica_gguf* file = nullptr;
  ASSERT_EQ(mica_gguf_open(context_, mem.path().c_str(), MICA_GGUF_MAP, &file), MICA_OK);
  float scores[8] = {};
  EXPECT_EQ(mica_gguf_array_f32(file, "scores", 0, 4, scores), MICA_OK);
  EXPECT_EQ(scores[3], 4.0f);
  EXPECT_EQ(mica_gguf_array_f32(file, "scores", 0, 5, scores), MICA_INVALID_ARGUMENT);
  int64_t types[1];
  EXPECT_EQ(mica_gguf_array_i64(file, "type", 0, 1, types), MICA_INVALID_ARGUMENT);
  mica_gguf_release(file);
}

TEST_F(GgufBad, Class22NothingRawInErrorTexts) {
  const std::string evil = "\x1b]0;owned\x07\r\n'\\\xff";
  const std::string escaped = "'\\x1b]0;owned\\x07\\x0d\\x0a\\x27\\x5c\\xff'";
  expect_key(key<uint8_t>(evil, 99, 1), "key " + escaped);
  expect_tensor(tensor(evil, {8}, 99, 0), "tensor " + escaped);
  File f = sample();
  f.keys[2] = f.keys[3] = key<uint8_t>(evil, MICA_GGUF_U8, 1);
  expect(f.bytes(), MICA_BAD_FILE, "key " + escaped + " occurs twice");
  expect_path("/tmp/" + evil, MICA_NOT_FOUND, "\\x1b");
  expect_key(key<uint8_t>(std::string(60000, '\x1b'), 99, 1), "...");
}

TEST_F(GgufBad, DuplicateNames) {
  File f = sample();
  f.keys[20] = key<uint8_t>("n.u8", MICA_GGUF_U8, 1);
  expect(f.bytes(), MICA_BAD_FILE, "key 'n.u8' occurs twice");
  expect_tensor(tensor("c", {8}, MICA_F32, 0), "tensor 'c' occurs twice");
}

TEST_F(GgufBad, DeepArrays) {
  const auto nested = [](int depth) {
    std::string inner = Bytes().u32(MICA_GGUF_U8).u64(1).u8(5).data;
    for (int i = 1; i < depth; ++i) inner = Bytes().u32(MICA_GGUF_ARRAY).u64(1).data + inner;
    return Bytes().text("k").u32(MICA_GGUF_ARRAY).data + inner;
  };
  File f;
  f.keys = {nested(4)};
  expect(f.bytes(), MICA_OK, "");
  for (const int depth : {5, 6, 20000}) {
    f.keys = {nested(depth)};
    expect(f.bytes(), MICA_BAD_FILE, "nested more than 4 deep");
  }
}

TEST_F(GgufBad, HugeMetadataOfASparseFile) {
  const uint64_t two_gib = uint64_t{1} << 31;
  File f;
  f.keys = {Bytes().text("s").u32(MICA_GGUF_STRING).u64(two_gib).data};
  const MemFile mem(f.bytes());
  ASSERT_EQ(ftruncate(mem.fd(), static_cast<off_t>(two_gib + 4096)), 0);
  expect_path(mem.path(), MICA_BAD_FILE, "longer than 1 GiB");
}

// The fuzz target's seeds (tests/fuzz/make_corpus.py): those named bad_... must be refused.
TEST_F(GgufBad, Corpus) {
  const std::filesystem::path folder =
      std::filesystem::path(MICA_GOLDEN_DIR).parent_path() / "fuzz/corpus/gguf";
  int n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string path = entry.path().string();
    const bool bad = entry.path().filename().string().rfind("bad_", 0) == 0;
    for (const mica_gguf_mode mode : {MICA_GGUF_MAP, MICA_GGUF_READ}) {
      EXPECT_EQ(gguf_walk::walk(context_, path.c_str(), mode) != MICA_OK, bad)
          << path << ": " << error();
    }
    ++n;
  }
  EXPECT_GE(n, 28);
}

TEST_F(GgufBad, RandomMutants) {
  const std::string whole = sample().bytes();
  const MemFile mem(whole);
  std::mt19937 random(20251122);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    const size_t at = random() % whole.size();
    const auto byte = static_cast<char>(random());
    ASSERT_EQ(pwrite(mem.fd(), &byte, 1, static_cast<off_t>(at)), 1);
    const mica_status mapped = gguf_walk::walk(context_, mem.path().c_str(), MICA_GGUF_MAP);
    const mica_status read = gguf_walk::walk(context_, mem.path().c_str(), MICA_GGUF_READ);
    ASSERT_EQ(mapped, read) << "byte " << at;
    ASSERT_TRUE(mapped == MICA_OK || mapped == MICA_BAD_FILE || mapped == MICA_UNSUPPORTED);
    refused += mapped != MICA_OK ? 1 : 0;
    ASSERT_EQ(pwrite(mem.fd(), &whole[at], 1, static_cast<off_t>(at)), 1);
  }
  EXPECT_GT(refused, 5000);
  EXPECT_EQ(gguf_walk::walk(context_, mem.path().c_str(), MICA_GGUF_MAP), MICA_OK) << error();
}

TEST_F(GgufBad, RandomMutantsOfManyBytes) {
  const std::string whole = sample().bytes();
  MemFile mem(whole);
  std::mt19937 random(7);
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = whole;
    for (unsigned k = 0; k < 1 + random() % 8; ++k) {
      bytes[24 + random() % (bytes.size() - 24)] = static_cast<char>(random());
    }
    mem.set(bytes);
    ASSERT_EQ(gguf_walk::walk(context_, mem.path().c_str(), MICA_GGUF_MAP),
              gguf_walk::walk(context_, mem.path().c_str(), MICA_GGUF_READ));
  }
}

}  // namespace
