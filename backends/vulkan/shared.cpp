// The process's table of open GPUs. It holds nothing of a context's, so contexts come and go: why
// there is one, docs/adr/0008 says.
#include "backends/vulkan/shared.h"

#include "backends/vulkan/device.h"

namespace mica::vulkan {
namespace {

constexpr uint32_t kSlots = 16;
Shared slots[kSlots];
pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

struct TableLock {
  TableLock() { pthread_mutex_lock(&table_lock); }
  ~TableLock() { pthread_mutex_unlock(&table_lock); }
};

// The environment may have switched paths off since another context opened the GPU.
uint8_t paths_of(const Physical& p) {
  return static_cast<uint8_t>(p.subgroup_size_control | p.dot << 1 | p.coopmat << 2 |
                              (p.import_align > 0) << 3 | p.budget << 4);
}

}  // namespace

bool join_shared(Device& d, const Physical& chosen) {
  TableLock lock;
  for (Shared& s : slots) {
    if (s.n_users == 0 || s.lost || s.paths != paths_of(chosen) ||
        std::memcmp(s.uuid, chosen.uuid, sizeof s.uuid) != 0)
      continue;
    d.api.vkDestroyInstance(d.instance, nullptr);
    close_loader(d.loader);
    d.api = s.api;
    d.instance = s.instance;
    d.physical = s.physical;
    d.device = s.device;
    d.queue = s.queue;
    d.shared = &s;
    ++s.n_users;
    return true;
  }
  return false;
}

void begin_shared(Device& d, const Physical& chosen) {
  TableLock lock;
  for (Shared& s : slots) {
    if (s.n_users != 0) continue;
    s = {d.loader,
         d.api,
         d.instance,
         d.physical,
         d.device,
         d.queue,
         {},
         paths_of(chosen),
         1,
         false,
         0,
         0,
         PTHREAD_MUTEX_INITIALIZER};
    std::memcpy(s.uuid, chosen.uuid, sizeof s.uuid);
    d.shared = &s;
    return;
  }
}

void known_paths(const Device& d, uint32_t& tried, uint32_t& failed) {
  if (d.shared == nullptr) return;
  TableLock lock;
  tried = d.shared->tried_paths;
  failed = d.shared->failed_paths;
}

void note_paths(const Device& d, uint32_t tried, uint32_t failed) {
  if (d.shared == nullptr) return;
  TableLock lock;
  d.shared->tried_paths |= tried;
  d.shared->failed_paths |= failed;
}

bool leave_shared(Device& d) {
  if (d.shared == nullptr) return true;
  TableLock lock;
  if (--d.shared->n_users > 0) return false;
  d.loader = d.shared->loader;
  return true;
}

}  // namespace mica::vulkan
