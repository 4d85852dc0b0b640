// GGUF files: opening, tensors and their data. Only regular files, whose size is taken from the
// open descriptor; what is mapped is never written.
#define _FILE_OFFSET_BITS 64
#include "core/gguf/gguf.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace mica {
namespace {

mica_status system_error(Error& error, const char* doing, int number) {
  if (number == ENOENT || number == ENOTDIR)
    return error.fail(MICA_NOT_FOUND, "there is no such file");
  if (number == ENOMEM) return error.fail(MICA_OUT_OF_MEMORY, doing, ": out of memory");
  if (number == EACCES) return error.fail(MICA_IO, doing, ": permission denied");
  if (number == EIO) return error.fail(MICA_IO, doing, ": the device reports an error");
  if (number == EMFILE || number == ENFILE)
    return error.fail(MICA_IO, doing, ": too many open files");
  return error.fail(MICA_IO, doing, ": system error ", number);
}

mica_status open_file(mica_gguf& file, const char* path, mica_gguf_mode mode, Error& error) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  file.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file.fd < 0) return system_error(error, "cannot open", errno);
  struct stat info;
  if (fstat(file.fd, &info) != 0) return system_error(error, "cannot inspect", errno);
  if (S_ISDIR(info.st_mode)) return error.fail(MICA_IO, "is a directory");
  if (!S_ISREG(info.st_mode)) return error.fail(MICA_IO, "is not a regular file");
  if (info.st_size <= 0) return error.fail(MICA_BAD_FILE, "the file is empty");
  file.file_bytes = static_cast<uint64_t>(info.st_size);
  if (mode != MICA_GGUF_MAP) return MICA_OK;
  if (file.file_bytes > PTRDIFF_MAX)
    return error.fail(MICA_OUT_OF_MEMORY, "too long to be mapped on this machine");
  void* map =
      mmap(nullptr, static_cast<size_t>(file.file_bytes), PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (map == MAP_FAILED) return system_error(error, "cannot map", errno);
  file.map = static_cast<const char*>(map);
  return MICA_OK;
}

// The pointer is compared, not followed: it may be another file's or stale.
bool owns(const mica_gguf& file, const mica_gguf_tensor* tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor);
  const auto begin = reinterpret_cast<uintptr_t>(file.tensors.begin());
  return address >= begin && address < reinterpret_cast<uintptr_t>(file.tensors.end()) &&
         (address - begin) % sizeof(mica_gguf_tensor) == 0;
}

}  // namespace

mica_status read_file(const mica_context& context, int fd, uint64_t at, uint64_t n, void* dst,
                      Error& error) {
  constexpr uint64_t kChunk = uint64_t{8} << 20;  // a few milliseconds between looks at `cancel`
  char* p = static_cast<char*>(dst);
  while (n > 0) {
    if (context.cancelled()) return error.fail(MICA_CANCELLED, "cancelled");
    const ssize_t got =
        pread(fd, p, static_cast<size_t>(std::min(n, kChunk)), static_cast<off_t>(at));
    if (got < 0) {
      if (errno == EINTR) continue;
      return system_error(error, "cannot read", errno);
    }
    if (got == 0) return error.fail(MICA_IO, "the file became shorter while it was read");
    p += got;
    at += static_cast<uint64_t>(got);
    n -= static_cast<uint64_t>(got);
  }
  return MICA_OK;
}

}  // namespace mica

mica_status mica_gguf_open(mica_context* context, const char* path, mica_gguf_mode mode,
                           mica_gguf** out_file) {
  if (out_file != nullptr) *out_file = nullptr;
  if (context == nullptr) return MICA_INVALID_ARGUMENT;
  mica::Error& error = context->error;
  if (path == nullptr || out_file == nullptr) return error.invalid("mica_gguf_open: NULL argument");
  if (mode != MICA_GGUF_MAP && mode != MICA_GGUF_READ)
    return error.invalid("mica_gguf_open: mode is ", static_cast<uint32_t>(mode),
                         ", neither MAP nor READ");
  auto* file = mica::create<mica_gguf>(context->allocator, context);
  if (file == nullptr) return error.out_of_memory("GGUF file");
  mica::retain(context);
  mica_status status = mica::open_file(*file, path, mode, error);
  if (status == MICA_OK) status = mica::gguf_parse(*file, error);
  if (status != MICA_OK) {
    // A path's end names the file: a longer one is cut at its front.
    const size_t length = std::strlen(path), cut = length > 60 ? length - 60 : 0;
    error.prefix(cut > 0 ? "..." : "", mica::quoted(path + cut));
    mica_gguf_release(file);
    return status;
  }
  *out_file = file;
  return MICA_OK;
}

void mica_gguf_release(mica_gguf* file) {
  if (file == nullptr) return;
  if (file->map != nullptr)
    munmap(const_cast<char*>(file->map), static_cast<size_t>(file->file_bytes));
  if (file->fd >= 0) close(file->fd);
  mica_context* context = file->context;
  mica::destroy(context->allocator, file);
  mica_context_release(context);
}

uint32_t mica_gguf_version(const mica_gguf* file) { return file != nullptr ? file->version : 0; }

uint64_t mica_gguf_n_tensors(const mica_gguf* file) {
  return file != nullptr ? file->tensors.size() : 0;
}

const mica_gguf_tensor* mica_gguf_tensor_at(const mica_gguf* file, uint64_t i) {
  if (file == nullptr || i >= file->tensors.size()) return nullptr;
  return &file->tensors[static_cast<size_t>(i)];
}

const mica_gguf_tensor* mica_gguf_tensor_find(const mica_gguf* file, const char* name) {
  if (file == nullptr || name == nullptr) return nullptr;
  return mica::gguf_find(file->tensors, file->tensors_by_name, name);
}

mica_status mica_gguf_read(mica_gguf* file, const mica_gguf_tensor* tensor, uint64_t offset,
                           uint64_t bytes, void* dst) {
  if (file == nullptr) return MICA_INVALID_ARGUMENT;
  mica::Error& error = file->context->error;
  if (!mica::owns(*file, tensor))
    return error.invalid("mica_gguf_read: the tensor is not of this file");
  if (!mica::range_fits(offset, bytes, tensor->bytes))
    return error.invalid("tensor ", mica::quoted(tensor->name), ": ", bytes, " bytes at ", offset,
                         " are not inside its ", tensor->bytes);
  if (bytes == 0) return MICA_OK;
  if (dst == nullptr) return error.null("mica_gguf_read: dst");
  const mica_status status =
      mica::read_file(*file->context, file->fd, tensor->offset + offset, bytes, dst, error);
  return status == MICA_OK ? status : error.prefix("tensor ", mica::quoted(tensor->name));
}

const void* mica_gguf_map(const mica_gguf* file, const mica_gguf_tensor* tensor) {
  if (file == nullptr || file->map == nullptr || !mica::owns(*file, tensor)) return nullptr;
  return file->bytes(tensor->offset);
}
