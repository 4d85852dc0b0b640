// Builds GGUF files byte by byte, sound and unsound ones, and lends them a path without a disk.
#pragma once
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "mica/gguf.h"

namespace gguf_test {

// Appends little-endian numbers and strings.
class Bytes {
 public:
  template <class T>
  Bytes& put(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof raw);
    data.append(raw, sizeof raw);
    return *this;
  }
  Bytes& u8(uint8_t v) { return put(v); }
  Bytes& u32(uint32_t v) { return put(v); }
  Bytes& u64(uint64_t v) { return put(v); }
  Bytes& text(const std::string& s) {
    u64(s.size());
    data += s;
    return *this;
  }
  Bytes& pad(size_t align) {
    while (data.size() % align != 0) data.push_back('\0');
    return *this;
  }
  std::string data;
};

// A file in parts, so that a test can spoil one of them. Counts follow the parts unless set.
struct File {
  uint32_t magic = 0x46554747;
  uint32_t version = 3;
  std::vector<std::string> keys;
  std::vector<std::string> tensors;
  int64_t n_keys = -1;
  int64_t n_tensors = -1;
  size_t align = 32;
  std::string data;

  std::string bytes() const {
    Bytes b;
    b.u32(magic).u32(version);
    b.u64(static_cast<uint64_t>(n_tensors < 0 ? static_cast<int64_t>(tensors.size()) : n_tensors));
    b.u64(static_cast<uint64_t>(n_keys < 0 ? static_cast<int64_t>(keys.size()) : n_keys));
    for (const std::string& key : keys) b.data += key;
    for (const std::string& tensor : tensors) b.data += tensor;
    if (!data.empty()) b.pad(align);
    return b.data + data;
  }
};

// A key whose value is one number.
template <class T>
std::string key(const std::string& name, uint32_t type, T value) {
  return Bytes().text(name).u32(type).put(value).data;
}
inline std::string string_key(const std::string& name, const std::string& value) {
  return Bytes().text(name).u32(MICA_GGUF_STRING).text(value).data;
}
// An array key: `n` as said, then the raw elements.
inline std::string array_key(const std::string& name, uint32_t type, uint64_t n,
                             const std::string& elements) {
  return Bytes().text(name).u32(MICA_GGUF_ARRAY).u32(type).u64(n).data + elements;
}
template <class T>
std::string numbers(const std::vector<T>& values) {
  Bytes b;
  for (const T v : values) b.put(v);
  return b.data;
}
inline std::string strings(const std::vector<std::string>& values) {
  Bytes b;
  for (const std::string& v : values) b.text(v);
  return b.data;
}
inline std::string tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                          uint64_t offset) {
  Bytes b;
  b.text(name).u32(static_cast<uint32_t>(dims.size()));
  for (const uint64_t d : dims) b.u64(d);
  return b.u32(type).u64(offset).data;
}

// Every metadata type, arrays of numbers, strings and arrays, and three tensors.
inline File sample() {
  File f;
  f.keys = {
      string_key("general.architecture", "llama"),
      key<uint32_t>("general.alignment", MICA_GGUF_U32, 32),
      key<uint8_t>("n.u8", MICA_GGUF_U8, 200),
      key<int8_t>("n.i8", MICA_GGUF_I8, -100),
      key<uint16_t>("n.u16", MICA_GGUF_U16, 60000),
      key<int16_t>("n.i16", MICA_GGUF_I16, -30000),
      key<uint32_t>("n.u32", MICA_GGUF_U32, 4000000000u),
      key<int32_t>("n.i32", MICA_GGUF_I32, -2000000000),
      key<uint64_t>("n.u64", MICA_GGUF_U64, UINT64_MAX),
      key<int64_t>("n.i64", MICA_GGUF_I64, INT64_MIN),
      key<float>("n.f32", MICA_GGUF_F32, 0.25f),
      key<double>("n.f64", MICA_GGUF_F64, 0.1),
      key<uint8_t>("n.true", MICA_GGUF_BOOL, 1),
      key<uint8_t>("n.false", MICA_GGUF_BOOL, 0),
      string_key("empty", ""),
      string_key("raw", std::string("a\0b\x1b[31m", 8)),
      array_key("a.u8", MICA_GGUF_U8, 3, numbers<uint8_t>({1, 2, 255})),
      array_key("a.i32", MICA_GGUF_I32, 3, numbers<int32_t>({-1, 0, 7})),
      array_key("a.f32", MICA_GGUF_F32, 2, numbers<float>({0.5f, -3.0f})),
      array_key("a.f64", MICA_GGUF_F64, 2, numbers<double>({0.5, 0.1})),
      array_key("a.bool", MICA_GGUF_BOOL, 2, numbers<uint8_t>({1, 0})),
      array_key("a.u64", MICA_GGUF_U64, 2, numbers<uint64_t>({5, UINT64_MAX})),
      array_key("a.empty", MICA_GGUF_I32, 0, ""),
      array_key("a.text", MICA_GGUF_STRING, 4, strings({"one", "", "three", "four"})),
      array_key("a.a", MICA_GGUF_ARRAY, 2,
                Bytes().u32(MICA_GGUF_U8).u64(2).u8(1).u8(2).data +
                    Bytes().u32(MICA_GGUF_STRING).u64(1).text("x").data),
  };
  f.tensors = {
      tensor("b.weight", {32, 2}, MICA_Q4_0, 64),  // 36 bytes
      tensor("a.weight", {4, 1, 2}, MICA_F32, 0),  // 32 bytes
      tensor("c", {1}, MICA_F16, 128),             // 2 bytes, the file's last
  };
  f.data.assign(130, '\0');
  for (size_t i = 0; i < f.data.size(); ++i) f.data[i] = static_cast<char>(i);
  return f;
}

// An anonymous file with a path.
class MemFile {
 public:
  explicit MemFile(const std::string& bytes) : fd_(memfd_create("gguf_test", MFD_CLOEXEC)) {
    set(bytes);
  }
  ~MemFile() { close(fd_); }
  MemFile(const MemFile&) = delete;
  MemFile& operator=(const MemFile&) = delete;
  void set(const std::string& bytes) {
    ASSERT_EQ(ftruncate(fd_, static_cast<off_t>(bytes.size())), 0);
    ASSERT_EQ(pwrite(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }
  int fd() const { return fd_; }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

class GgufTest : public testing::Test {
 protected:
  GgufTest() { EXPECT_EQ(mica_context_create(nullptr, &context_), MICA_OK); }
  ~GgufTest() override { mica_context_release(context_); }
  std::string error() const { return mica_context_error(context_); }
  mica_context* context_ = nullptr;
};

}  // namespace gguf_test
