// Mapping memory with a page out of bounds on either side.
#include "backends/vulkan/guard_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "core/base/checked.h"

namespace mica::vulkan {

Guard guard_wanted() {
  const char* value = std::getenv("MICA_VULKAN_GUARD");
  if (value == nullptr || value[0] == '\0' || std::strcmp(value, "0") == 0) return Guard::none;
  return std::strcmp(value, "start") == 0 ? Guard::start : Guard::end;
}

GuardedPages map_guarded(uint64_t bytes, uint64_t align) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  GuardedPages p = {nullptr, 0, align > page ? align : page};
  if (!checked_align(bytes, p.page, p.bytes) || p.bytes > INT64_MAX - 2 * p.page) return p;
  const uint64_t all = p.bytes + 2 * p.page;
  void* place = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return p;
  char* const memory = static_cast<char*>(place) + p.page;
  if (mprotect(memory, p.bytes, PROT_READ | PROT_WRITE) != 0) {
    munmap(place, all);
    return p;
  }
  p.memory = memory;
  return p;
}

void unmap_guarded(GuardedPages& p) {
  if (p.memory != nullptr) munmap(p.memory - p.page, p.bytes + 2 * p.page);
  p.memory = nullptr;
}

}  // namespace mica::vulkan
