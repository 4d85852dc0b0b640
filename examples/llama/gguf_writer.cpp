// Streaming a GGUF file to disk.
#include "gguf_writer.h"

#include <algorithm>
#include <bit>

namespace mica_llama {
namespace {

constexpr uint64_t kAlignment = 32;  // the format's default; general.alignment is not written
constexpr char kZeros[kAlignment] = {};
static_assert(std::endian::native == std::endian::little, "files are little-endian");

uint64_t aligned(uint64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

template <class T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

}  // namespace

void Progress::report(uint64_t done, uint64_t total) const {
  if (call != nullptr && call(user, done, total) != 0) fail(MICA_CANCELLED, "cancelled");
}

void GgufWriter::put_string(std::string_view text) {
  put(uint64_t{text.size()});
  keys_.append(text);
}

void GgufWriter::begin_key(std::string_view key, mica_gguf_type type) {
  put_string(key);
  put(static_cast<uint32_t>(type));
  ++n_keys_;
}

void GgufWriter::begin_array(std::string_view key, mica_gguf_type type, uint64_t n) {
  begin_key(key, MICA_GGUF_ARRAY);
  put(static_cast<uint32_t>(type));
  put(n);
}

void GgufWriter::add_string(std::string_view key, std::string_view value) {
  begin_key(key, MICA_GGUF_STRING);
  put_string(value);
}

void GgufWriter::add_string_array(std::string_view key, const std::vector<std::string>& values) {
  begin_array(key, MICA_GGUF_STRING, values.size());
  for (const std::string& value : values) put_string(value);
}

void GgufWriter::copy_key(const Metadata& file, uint64_t i_key) {
  size_t bytes = 0;
  const void* raw = mica_gguf_key_raw(file.file(), i_key, &bytes);
  if (raw == nullptr) fail(MICA_INVALID_ARGUMENT, "there is no such key");
  keys_.append(static_cast<const char*>(raw), bytes);
  ++n_keys_;
}

void GgufWriter::add_tensor(const StoredTensor& tensor) { tensors_.push_back(tensor); }

void GgufWriter::begin() {
  file_ = std::make_unique<NewFile>(path_);
  const std::string head =
      "GGUF" + bytes_of(uint32_t{3}) + bytes_of(uint64_t{tensors_.size()}) + bytes_of(n_keys_);
  write_raw(head.data(), head.size());
  write_raw(keys_.data(), keys_.size());
  std::string().swap(keys_);
  uint64_t offset = 0;
  for (const StoredTensor& t : tensors_) {
    std::string entry = bytes_of(uint64_t{t.name.size()}) + t.name;
    entry += bytes_of(static_cast<uint32_t>(t.dim.size()));
    for (const int64_t d : t.dim) entry += bytes_of(d);
    entry += bytes_of(static_cast<uint32_t>(t.dtype)) + bytes_of(offset);
    write_raw(entry.data(), entry.size());
    offset = aligned(offset + t.bytes());
  }
  pad();
}

void GgufWriter::write_raw(const void* data, size_t bytes) {
  file_->write(data, bytes);
  position_ += bytes;
}

void GgufWriter::pad() { write_raw(kZeros, static_cast<size_t>(aligned(position_) - position_)); }

void GgufWriter::write(const void* data, uint64_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes != 0) {
    if (i_tensor_ == tensors_.size()) fail(MICA_INVALID_ARGUMENT, "more data than tensors");
    const uint64_t whole = tensors_[i_tensor_].bytes();
    const uint64_t n = std::min(bytes, whole - tensor_bytes_);
    write_raw(from, static_cast<size_t>(n));
    from += n;
    bytes -= n;
    tensor_bytes_ += n;
    if (tensor_bytes_ < whole) continue;
    pad();
    ++i_tensor_;
    tensor_bytes_ = 0;
  }
}

void GgufWriter::finish() {
  if (file_ == nullptr || i_tensor_ != tensors_.size())
    fail(MICA_INVALID_ARGUMENT, "the data of some tensors is missing");
  file_->finish();
  file_.reset();
}

}  // namespace mica_llama
