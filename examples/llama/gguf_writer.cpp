// Streaming a GGUF file to disk.
#include "gguf_writer.h"

#include <fcntl.h>
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

// Where the system shows an open file, whatever its name.
std::string own_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

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
  if (file_ != nullptr) std::fclose(file_);
  if (has_name_) std::remove(temporary_.c_str());
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

void GgufWriter::create() {
  // Beside its place, so that a rename can move it there.
  const size_t slash = path_.rfind('/');
  const std::string folder = slash == path_.npos ? "." : path_.substr(0, slash + 1);
  int fd = open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
  if (fd >= 0 && access(own_path(fd).c_str(), F_OK) != 0) {  // it could not be given a name
    close(fd);
    fd = -1;
  }
  if (fd < 0) {
    fd = open(temporary_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    has_name_ = fd >= 0;
  }
  if (fd >= 0) file_ = fdopen(fd, "wb");
  if (file_ != nullptr) return;
  const int reason = errno;
  if (fd >= 0) close(fd);
  fail(MICA_IO, "cannot create '" + escaped(temporary_) + "': " + std::strerror(reason));
}

bool GgufWriter::link_temporary() {
  if (!has_name_)
    has_name_ = linkat(AT_FDCWD, own_path(fileno(file_)).c_str(), AT_FDCWD, temporary_.c_str(),
                       AT_SYMLINK_FOLLOW) == 0;
  return has_name_;
}

void GgufWriter::begin() {
  create();
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
  bool ok = std::fflush(file_) == 0 && fsync(fileno(file_)) == 0 && link_temporary();
  int reason = errno;
  if (std::fclose(std::exchange(file_, nullptr)) != 0 && ok) {
    ok = false;
    reason = errno;
  }
  if (ok && std::rename(temporary_.c_str(), path_.c_str()) == 0) {
    has_name_ = false;
    return;
  }
  if (ok) reason = errno;
  fail(MICA_IO, "writing '" + escaped(path_) + "' failed: " + std::strerror(reason));
}

}  // namespace mica_llama
