// Reading and writing the file of compiled pipelines.
#include "backends/vulkan/cache_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

namespace mica::vulkan {
namespace {

constexpr uint32_t kMagic = 0x4d56434b;  // "KCVM"
constexpr uint32_t kVersion = 1;
constexpr uint64_t kMaxBytes = uint64_t{64} << 20;

struct Header {
  uint32_t magic, version;
  CacheKey key;
  uint32_t unused;
  uint64_t bytes, checksum;
};

// FNV-1a, 64 bits.
uint64_t checksum(const char* data, size_t bytes) {
  uint64_t h = 14695981039346656037ull;
  for (size_t i = 0; i < bytes; ++i)
    h = (h ^ static_cast<unsigned char>(data[i])) * 1099511628211ull;
  return h;
}

struct Path {
  char text[1024];
  bool ok;
};
// <folder>/vulkan-<vendor>-<device>.cache<suffix>
Path path_of(const char* folder, const CacheKey& key, const char* suffix) {
  Path p{};
  Writer w(p.text, sizeof p.text);
  w.put(folder, "/vulkan-", key.vendor, "-", key.device, ".cache", suffix);
  p.ok = w.size() < sizeof p.text;
  return p;
}

bool read_all(int fd, char* to, size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = read(fd, to, bytes);
    if (n <= 0) return false;
    to += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}
bool write_all(int fd, const char* from, size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = write(fd, from, bytes);
    if (n <= 0) return false;
    from += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

// A file of this writer's own: others may be writing theirs, in this process too, and one that a
// crash left behind is not touched.
int open_fresh(const char* folder, const CacheKey& key, Path& out) {
  int fd = -1;
  for (int i = 0; i < 16 && fd < 0; ++i) {
    char suffix[40];
    Writer(suffix, sizeof suffix).put(".").put(static_cast<int64_t>(getpid())).put(".", i);
    out = path_of(folder, key, suffix);
    if (!out.ok) return -1;
    fd = open(out.text, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno != EEXIST) return -1;
  }
  return fd;
}

bool read_file(int fd, const CacheKey& key, Vec<char>& out) {
  Header h{};
  struct stat info {};
  if (fstat(fd, &info) != 0 || !read_all(fd, reinterpret_cast<char*>(&h), sizeof h)) return false;
  if (h.magic != kMagic || h.version != kVersion || h.bytes > kMaxBytes ||
      static_cast<uint64_t>(info.st_size) != sizeof h + h.bytes ||
      std::memcmp(&h.key, &key, sizeof key) != 0)
    return false;
  return out.resize(h.bytes) && read_all(fd, out.data(), h.bytes) &&
         checksum(out.data(), h.bytes) == h.checksum;
}

}  // namespace

bool read_cache(const char* folder, const CacheKey& key, Vec<char>& out) {
  const Path path = path_of(folder, key, "");
  const int fd = path.ok ? open(path.text, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
  if (fd < 0) return false;
  const bool ok = read_file(fd, key, out);
  close(fd);
  if (!ok) out.clear();
  return ok;
}

bool write_cache(const char* folder, const CacheKey& key, const char* data, size_t bytes) {
  const Path path = path_of(folder, key, "");
  if (!path.ok || bytes > kMaxBytes) return false;
  mkdir(folder, 0700);  // mostly it is there
  Path fresh{};
  const int fd = open_fresh(folder, key, fresh);
  if (fd < 0) return false;
  Header h{};
  h.magic = kMagic;
  h.version = kVersion;
  h.key = key;
  h.bytes = bytes;
  h.checksum = checksum(data, bytes);
  bool ok =
      write_all(fd, reinterpret_cast<const char*>(&h), sizeof h) && write_all(fd, data, bytes);
  ok = close(fd) == 0 && ok;
  ok = ok && rename(fresh.text, path.text) == 0;
  if (!ok) unlink(fresh.text);
  return ok;
}

}  // namespace mica::vulkan
