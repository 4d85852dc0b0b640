// Files that are read, when they are regular ones, and files that appear as a whole.
#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace mica_llama {
namespace {

void require_path(const std::string& path) {
  if (path.empty()) fail(MICA_INVALID_ARGUMENT, "the path is empty");
}

// Where the new file goes: to what `path` is or leads to, if that is a regular file or nothing yet.
std::string target_of(const std::string& path) {
  require_path(path);
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) return path;  // creating it says what is wrong, if it is
  std::string target = path;
  if (S_ISLNK(info.st_mode)) {
    const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr),
                                                           std::free);
    if (real == nullptr || stat(real.get(), &info) != 0)
      fail(MICA_IO, quoted(path) + " is a symbolic link that leads to no file");
    target = real.get();
  }
  if (!S_ISREG(info.st_mode))
    fail(MICA_IO, quoted(path) + " is not a regular file, and nothing else is replaced");
  return target;
}

// Where the system shows an open file, whatever its name.
std::string own_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

}  // namespace

File open_regular(const std::string& path, uint64_t& out_bytes) {
  require_path(path);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0)
    fail(errno == ENOENT || errno == ENOTDIR ? MICA_NOT_FOUND : MICA_IO,
         "cannot open " + quoted(path) + ": " + std::strerror(errno));
  struct stat info {};
  const bool is_regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  File file(is_regular ? fdopen(fd, "rb") : nullptr);
  if (file == nullptr) {
    close(fd);
    fail(MICA_IO,
         is_regular ? "cannot read " + quoted(path) : quoted(path) + " is not a regular file");
  }
  out_bytes = static_cast<uint64_t>(info.st_size);
  return file;
}

template <class Take>
bool NewFile::take_name(Take take) {
  const std::string start = target_ + ".part" + std::to_string(getpid()) + ".";
  for (int i = 0; i < 16 && !has_name_; ++i) {
    temporary_ = start + std::to_string(i);
    has_name_ = take(temporary_.c_str());
    if (!has_name_ && errno != EEXIST) break;
  }
  return has_name_;
}

NewFile::NewFile(const std::string& path) : path_(path), target_(target_of(path)) {
  // Beside its place, so that a rename can move it there.
  const size_t slash = target_.rfind('/');
  const std::string folder = slash == target_.npos ? "." : target_.substr(0, slash + 1);
  int fd = open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
  if (fd >= 0 && access(own_path(fd).c_str(), F_OK) != 0) {  // it could not be given a name
    close(fd);
    fd = -1;
  }
  if (fd < 0)
    take_name([&](const char* name) {
      fd = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0666);
      return fd >= 0;
    });
  if (fd >= 0) file_.reset(fdopen(fd, "wb"));
  if (file_ != nullptr) return;
  const int reason = errno;
  if (fd >= 0) close(fd);
  if (has_name_) std::remove(temporary_.c_str());
  fail(MICA_IO, "cannot create " + quoted(path_) + ": " + std::strerror(reason));
}

NewFile::~NewFile() {
  if (has_name_) std::remove(temporary_.c_str());
}

bool NewFile::put(const void* data, size_t bytes) noexcept {
  if (bytes == 0 || std::fwrite(data, 1, bytes, file_.get()) == bytes) return true;
  reason_ = errno;
  return false;
}

void NewFile::fail_write() const {
  fail(MICA_IO, "writing " + quoted(path_) + " failed: " + std::strerror(reason_));
}

void NewFile::finish() {
  std::FILE* file = file_.get();
  const auto link_name = [&](const char* name) {
    return linkat(AT_FDCWD, own_path(fileno(file)).c_str(), AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0;
  };
  bool ok =
      std::fflush(file) == 0 && fsync(fileno(file)) == 0 && (has_name_ || take_name(link_name));
  reason_ = errno;
  if (std::fclose(file_.release()) != 0 && ok) {
    ok = false;
    reason_ = errno;
  }
  if (ok && std::rename(temporary_.c_str(), target_.c_str()) == 0) {
    has_name_ = false;
    return;
  }
  if (ok) reason_ = errno;
  fail_write();
}

}  // namespace mica_llama
