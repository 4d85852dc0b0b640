// Saved KV states as files.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/state/kv_state.h"

namespace mica {
namespace {

struct Fd {
  int fd = -1;
  ~Fd() {
    if (fd >= 0) (void)close(fd);
  }
};

mica_status write_all(void* user, const void* data, uint64_t bytes) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = write(static_cast<Fd*>(user)->fd, p, static_cast<size_t>(bytes));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return MICA_IO;
    p += n;
    bytes -= static_cast<uint64_t>(n);
  }
  return MICA_OK;
}

mica_status read_all(void* user, void* dst, uint64_t bytes) {
  char* p = static_cast<char*>(dst);
  while (bytes > 0) {
    const ssize_t n = read(static_cast<Fd*>(user)->fd, p, static_cast<size_t>(bytes));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return MICA_IO;
    p += n;
    bytes -= static_cast<uint64_t>(n);
  }
  return MICA_OK;
}

// A path's end names the file: of a longer one the front is left out.
Quoted name_of(const char* path) {
  const size_t n = std::strlen(path), cut = n > 60 ? n - 60 : 0;
  return {path + cut, n - cut};
}

mica_status system_error(Error& error, const char* doing, const char* path, int number) {
  const char* why = number == ENOSPC                        ? "the disk is full"
                    : number == ENOENT || number == ENOTDIR ? "there is no such folder"
                    : number == EACCES || number == EROFS   ? "permission denied"
                                                            : nullptr;
  if (why != nullptr) return error.fail(MICA_IO, doing, name_of(path), ": ", why);
  return error.fail(MICA_IO, doing, name_of(path), ": system error ", number);
}

constexpr size_t kPathBytes = PATH_MAX + 64;  // with the suffix of an unfinished file

// Where the new file goes: to what `path` is or leads to, if that is a regular file or nothing yet.
mica_status find_target(Error& error, const char* path, char* out) {
  const auto refuse = [&](const char* why) {
    return error.fail(MICA_IO, "kv save: ", name_of(path), why);
  };
  if (path[0] == '\0') return error.invalid("kv save: the path is empty");
  if (std::strlen(path) >= PATH_MAX) return refuse(" is too long a path");
  std::memcpy(out, path, std::strlen(path) + 1);
  struct stat info;
  if (lstat(path, &info) != 0) return MICA_OK;  // making the file says what is wrong, if it is
  if (S_ISLNK(info.st_mode) && (realpath(path, out) == nullptr || stat(out, &info) != 0))
    return refuse(" is a symbolic link that leads to no file");
  return S_ISREG(info.st_mode) ? MICA_OK
                               : refuse(" is not a regular file; a save replaces nothing else");
}

// A file of this save's own: others may be writing theirs, and what a crash left is not touched.
int open_part(const char* target, char* out) {
  int fd = -1;
  for (int i = 0; i < 16 && fd < 0; ++i) {
    Writer(out, kPathBytes).put(target, ".part", static_cast<int64_t>(getpid()), ".", i);
    fd = open(out, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0 && errno != EEXIST) break;
  }
  return fd;
}

// The name is on the disk once its directory is. Not every file system can tell: that is no error.
void sync_directory(char* path) {
  char* slash = std::strrchr(path, '/');
  if (slash != nullptr) slash[slash == path ? 1 : 0] = '\0';
  const Fd directory = {open(slash != nullptr ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (directory.fd >= 0) (void)fsync(directory.fd);
}

mica_status save_file(mica_session* s, uint32_t seq, uint64_t fingerprint, char* target,
                      char* part) {
  Error& error = s->error();
  Fd file = {open_part(target, part)};
  const auto fail = [&] { return system_error(error, "kv save: cannot write ", target, errno); };
  if (file.fd < 0) return fail();
  const mica_kv_writer writer = {write_all, &file};
  mica_status status = mica_kv_save_to(s, seq, fingerprint, &writer);
  if (status == MICA_IO) status = fail();
  if (status == MICA_OK && fsync(file.fd) != 0) status = fail();
  if (status == MICA_OK && rename(part, target) != 0) status = fail();
  if (status != MICA_OK) (void)unlink(part);
  if (status == MICA_OK) sync_directory(target);
  return status;
}

}  // namespace
}  // namespace mica

extern "C" {

mica_status mica_kv_save(mica_session* session, uint32_t seq, uint64_t fingerprint,
                         const char* path) {
  if (session == nullptr) return MICA_INVALID_ARGUMENT;
  if (path == nullptr) return session->error().null("path");
  MICA_TRY(mica::state_ready(session, seq, "kv save"));
  mica::Vec<char> paths(session->allocator());
  if (!paths.resize(2 * mica::kPathBytes)) return session->error().out_of_memory("kv save");
  char *target = paths.data(), *part = target + mica::kPathBytes;
  MICA_TRY(mica::find_target(session->error(), path, target));
  return mica::save_file(session, seq, fingerprint, target, part);
}

mica_status mica_kv_load(mica_session* session, uint32_t seq, uint64_t fingerprint,
                         const char* path, mica_kv_loaded* out) {
  if (out != nullptr) *out = {};
  if (session == nullptr) return MICA_INVALID_ARGUMENT;
  mica::Error& error = session->error();
  if (path == nullptr) return error.null("path");
  if (path[0] == '\0') return error.invalid("kv load: the path is empty");
  MICA_TRY(mica::state_ready(session, seq, "kv load"));
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  mica::Fd file = {open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (file.fd < 0)
    return error.fail(errno == ENOENT || errno == ENOTDIR ? MICA_NOT_FOUND : MICA_IO,
                      "kv load: cannot open ", mica::name_of(path), ": system error ", errno);
  struct stat info;
  if (fstat(file.fd, &info) != 0 || !S_ISREG(info.st_mode))
    return error.fail(MICA_IO, "kv load: ", mica::name_of(path), " is not a regular file");
  const mica_kv_reader reader = {mica::read_all, &file, static_cast<uint64_t>(info.st_size)};
  const mica_status status = mica_kv_load_from(session, seq, fingerprint, &reader, out);
  if (status == MICA_IO)
    return error.fail(status, "kv load: ", mica::name_of(path), " cannot be read to its end");
  return status == MICA_OK ? status : error.prefix(mica::name_of(path));
}

}  // extern "C"
