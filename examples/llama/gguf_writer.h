// Writes GGUF files, version 3: keys and tensors are declared, then the data streams through. The
// file appears under its name only when it is complete (NewFile).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "files.h"
#include "model.h"

namespace mica_llama {

class GgufWriter {
 public:
  explicit GgufWriter(std::string path) : path_(std::move(path)) {}

  void add_u32(std::string_view key, uint32_t value) { add(key, MICA_GGUF_U32, value); }
  void add_f32(std::string_view key, float value) { add(key, MICA_GGUF_F32, value); }
  void add_string(std::string_view key, std::string_view value);
  template <class T>
  void add(std::string_view key, mica_gguf_type type, T value) {
    begin_key(key, type);
    put(value);
  }
  template <class T>
  void add_array(std::string_view key, mica_gguf_type type, const std::vector<T>& values) {
    begin_array(key, type, values.size());
    for (const T value : values) put(value);
  }
  void add_string_array(std::string_view key, const std::vector<std::string>& values);
  // A key of a file that is read, byte for byte, whatever its type.
  void copy_key(const Metadata& file, uint64_t i_key);
  // Room for so many bytes of keys, so that they are held once while they are added.
  void reserve_keys(size_t bytes) { keys_.reserve(bytes); }

  void add_tensor(const StoredTensor& tensor);
  // Creates the file and writes all that was declared.
  void begin();
  // The next bytes of the tensors' data, in order of declaration; padding is put in between.
  void write(const void* data, uint64_t bytes);
  // Fails with IO when data is missing or the disk is full.
  void finish();

 private:
  void begin_key(std::string_view key, mica_gguf_type type);
  void begin_array(std::string_view key, mica_gguf_type type, uint64_t n);
  void put_string(std::string_view text);
  template <class T>
  void put(T value) {
    keys_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void write_raw(const void* data, size_t bytes);
  void pad();

  std::string path_;
  std::string keys_;  // their bytes
  uint64_t n_keys_ = 0;
  std::vector<StoredTensor> tensors_;
  std::unique_ptr<NewFile> file_;
  uint64_t position_ = 0;      // of the next byte of the file
  size_t i_tensor_ = 0;        // whose data comes
  uint64_t tensor_bytes_ = 0;  // of it that came
};

// A caller's progress callback.
struct Progress {
  int (*call)(void* user, uint64_t done, uint64_t total);
  void* user;

  // Fails with CANCELLED when the caller says so.
  void report(uint64_t done, uint64_t total) const;
};

}  // namespace mica_llama
