// Streaming a GGUF file to disk.
#include "gguf_writer.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

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

GgufWriter::GgufWriter(std::string path)
    : path_(std::move(path)), temporary_(path_ + ".part" + std::to_string(getpid())) {}

GgufWriter::~GgufWriter() {
  if (file_ == nullptr) return;
  std::fclose(file_);
  std::remove(temporary_.c_str());
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
  mica_gguf_type type{}, element{};
  uint64_t n = 0;
  const char* name = mica_gguf_key_at(file.file(), i_key, &type, &element, &n);
  if (name == nullptr) fail(MICA_INVALID_ARGUMENT, "there is no such key");
  const auto integer = [&] { return file.i64(name).value(); };
  const auto floating = [&] {
    double value = 0;
    check(mica_gguf_get_f64(file.file(), name, &value), file.context());
    return value;
  };
  switch (type) {
    case MICA_GGUF_U8:
      return add(name, type, static_cast<uint8_t>(integer()));
    case MICA_GGUF_I8:
      return add(name, type, static_cast<int8_t>(integer()));
    case MICA_GGUF_U16:
      return add(name, type, static_cast<uint16_t>(integer()));
    case MICA_GGUF_I16:
      return add(name, type, static_cast<int16_t>(integer()));
    case MICA_GGUF_U32:
      return add(name, type, static_cast<uint32_t>(integer()));
    case MICA_GGUF_I32:
      return add(name, type, static_cast<int32_t>(integer()));
    case MICA_GGUF_I64:
      return add(name, type, integer());
    case MICA_GGUF_F32:
      return add(name, type, static_cast<float>(floating()));
    case MICA_GGUF_F64:
      return add(name, type, floating());
    case MICA_GGUF_BOOL:
      return add(name, type, static_cast<uint8_t>(*file.boolean(name)));
    case MICA_GGUF_STRING:
      return add_string(name, *file.string(name));
    case MICA_GGUF_U64: {
      uint64_t value = 0;
      check(mica_gguf_get_u64(file.file(), name, &value), file.context());
      return add(name, type, value);
    }
    case MICA_GGUF_ARRAY:
      return copy_array(file, name, element, n);
    default:
      break;
  }
  fail(MICA_UNSUPPORTED, "the key '" + escaped(name) + "' has an unknown type");
}

void GgufWriter::copy_array(const Metadata& file, const char* key, mica_gguf_type type,
                            uint64_t n) {
  if (type == MICA_GGUF_STRING) {
    begin_array(key, type, n);
    for (uint64_t i = 0; i < n; ++i) put_string(file.array_string(key, i));
    return;
  }
  if (type == MICA_GGUF_F32) {
    std::vector<float> values(n);
    check(mica_gguf_array_f32(file.file(), key, 0, n, values.data()), file.context());
    return add_array(key, type, values);
  }
  if (type == MICA_GGUF_ARRAY || type == MICA_GGUF_F64)
    fail(MICA_UNSUPPORTED, "the key '" + escaped(key) + "' is an array that cannot be copied");
  std::vector<int64_t> values(n);
  check(mica_gguf_array_i64(file.file(), key, 0, n, values.data()), file.context());
  begin_array(key, type, n);
  for (const int64_t v : values) {
    switch (type) {
      case MICA_GGUF_U8:
      case MICA_GGUF_I8:
      case MICA_GGUF_BOOL:
        put(static_cast<int8_t>(v));
        break;
      case MICA_GGUF_U16:
      case MICA_GGUF_I16:
        put(static_cast<int16_t>(v));
        break;
      case MICA_GGUF_U32:
      case MICA_GGUF_I32:
        put(static_cast<int32_t>(v));
        break;
      default:
        put(v);
    }
  }
}

void GgufWriter::add_tensor(const StoredTensor& tensor) { tensors_.push_back(tensor); }

void GgufWriter::begin() {
  std::string head = "GGUF" + bytes_of(uint32_t{3});
  head += bytes_of(uint64_t{tensors_.size()}) + bytes_of(n_keys_) + keys_;
  uint64_t offset = 0;
  for (const StoredTensor& t : tensors_) {
    head += bytes_of(uint64_t{t.name.size()}) + t.name;
    head += bytes_of(static_cast<uint32_t>(t.dim.size()));
    for (const int64_t d : t.dim) head += bytes_of(d);
    head += bytes_of(static_cast<uint32_t>(t.dtype)) + bytes_of(offset);
    offset = aligned(offset + t.bytes());
  }
  file_ = std::fopen(temporary_.c_str(), "wbx");
  if (file_ == nullptr)
    fail(MICA_IO, "cannot create '" + escaped(temporary_) + "': " + std::strerror(errno));
  write_raw(head.data(), head.size());
  pad();
}

void GgufWriter::write_raw(const void* data, size_t bytes) {
  if (bytes != 0 && std::fwrite(data, 1, bytes, file_) != bytes)
    fail(MICA_IO, "writing '" + escaped(temporary_) + "' failed: " + std::strerror(errno));
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
  bool ok = std::fflush(file_) == 0 && fsync(fileno(file_)) == 0;
  ok = std::fclose(std::exchange(file_, nullptr)) == 0 && ok;
  if (ok && std::rename(temporary_.c_str(), path_.c_str()) == 0) return;
  const int reason = errno;
  std::remove(temporary_.c_str());
  fail(MICA_IO, "writing '" + escaped(path_) + "' failed: " + std::strerror(reason));
}

}  // namespace mica_llama
