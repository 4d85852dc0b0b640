// Files that are read, when they are regular ones, and files that appear as a whole.
#pragma once
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "failure.h"

namespace mica_llama {

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, FileCloser>;

// A path for a sentence, in quotes.
inline std::string quoted(const std::string& path) { return "'" + escaped(path, 300) + "'"; }

// Opens a regular file for reading and says how long it is. Never waits for the other end of a
// FIFO. Fails with INVALID_ARGUMENT (an empty path), NOT_FOUND and IO.
File open_regular(const std::string& path, uint64_t& out_bytes);

// A file that appears under its name only when it is complete, in the place of nothing or of a
// regular file; a symbolic link to one stays and what it leads to is replaced. Until then it has
// no name where the file system can do that (O_TMPFILE), so that nothing is left however the
// process ends; elsewhere it is called PATH.partPID.N, and the destructor removes it.
class NewFile {
 public:
  // Fails with INVALID_ARGUMENT (an empty path) and IO.
  explicit NewFile(const std::string& path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  // False when it failed; fail_write() then says why.
  bool put(const void* data, size_t bytes) noexcept;
  [[noreturn]] void fail_write() const;
  void write(const void* data, size_t bytes) {
    if (!put(data, bytes)) fail_write();
  }
  // Puts it in its place, on the disk. Fails with IO.
  void finish();

 private:
  // Tries names beside the place until `take` does not fail with EEXIST.
  template <class Take>
  bool take_name(Take take);

  std::string path_, target_;  // as it was given, and where links lead
  std::string temporary_;      // its name when has_name_
  bool has_name_ = false;
  File file_;
  int reason_ = 0;  // errno of what failed
};

}  // namespace mica_llama
