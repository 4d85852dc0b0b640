// Saved KV states as files.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
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

// The name is on the disk once its directory is. Not every file system can tell: that is no error.
void sync_directory(const char* path, Text& text) {
  const char* slash = std::strrchr(path, '/');
  const size_t n = slash == nullptr ? 0 : static_cast<size_t>(slash - path);
  if (!text.assign(slash == nullptr ? "."
                   : n == 0         ? "/"
                                    : path,
                   slash == nullptr || n == 0 ? 1 : n))
    return;
  const Fd directory = {open(text.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (directory.fd >= 0) (void)fsync(directory.fd);
}

mica_status save_file(mica_session* s, uint32_t seq, uint64_t fingerprint, const char* path,
                      const char* part) {
  Error& error = s->error();
  const auto fail = [&](const char* doing) {
    return error.fail(MICA_IO, "kv save: ", doing, " ", quoted(part), ": system error ", errno);
  };
  Fd file = {open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666)};
  if (file.fd < 0) return fail("cannot make");
  const mica_kv_writer writer = {write_all, &file};
  mica_status status = mica_kv_save_to(s, seq, fingerprint, &writer);
  if (status == MICA_IO) status = fail("cannot write");
  if (status == MICA_OK && fsync(file.fd) != 0) status = fail("cannot write");
  if (status == MICA_OK && rename(part, path) != 0) status = fail("cannot rename");
  if (status != MICA_OK) (void)unlink(part);
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
  mica::Vec<char> part(session->allocator());
  if (!part.append(path, std::strlen(path)) || !part.append(".part", sizeof ".part"))
    return session->error().out_of_memory("kv save");
  MICA_TRY(mica::save_file(session, seq, fingerprint, path, part.data()));
  mica::Text directory(session->allocator());
  mica::sync_directory(path, directory);
  return MICA_OK;
}

mica_status mica_kv_load(mica_session* session, uint32_t seq, uint64_t fingerprint,
                         const char* path, mica_kv_loaded* out) {
  if (out != nullptr) *out = {};
  if (session == nullptr) return MICA_INVALID_ARGUMENT;
  mica::Error& error = session->error();
  if (path == nullptr) return error.null("path");
  MICA_TRY(mica::state_ready(session, seq, "kv load"));
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  mica::Fd file = {open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (file.fd < 0)
    return error.fail(errno == ENOENT || errno == ENOTDIR ? MICA_NOT_FOUND : MICA_IO,
                      "kv load: cannot open ", mica::quoted(path), ": system error ", errno);
  struct stat info;
  if (fstat(file.fd, &info) != 0 || !S_ISREG(info.st_mode))
    return error.fail(MICA_IO, "kv load: ", mica::quoted(path), " is not a regular file");
  const mica_kv_reader reader = {mica::read_all, &file, static_cast<uint64_t>(info.st_size)};
  const mica_status status = mica_kv_load_from(session, seq, fingerprint, &reader, out);
  if (status == MICA_IO)
    return error.fail(status, "kv load: ", mica::quoted(path), " cannot be read to its end");
  return status;
}

}  // extern "C"
