// Counts cores from the affinity mask, the topology in /sys and the quota in /sys/fs/cgroup. Every
// file may be missing: then what it would have said is left out.
#include "backends/cpu/topology.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cstring>

#include "core/base/text.h"

namespace mica::cpu {
namespace {

// Reads a small file as text; false when there is none.
bool read_text(const char* path, char* out, size_t capacity) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t n = read(fd, out, capacity - 1);
  close(fd);
  out[n > 0 ? n : 0] = '\0';
  return n > 0;
}

bool parse_number(const char*& p, int64_t& out) {
  if (*p < '0' || *p > '9') return false;
  out = 0;
  while (*p >= '0' && *p <= '9' && out < (INT64_MAX - 9) / 10) out = out * 10 + (*p++ - '0');
  return true;
}

// The lowest CPU of a list like "0,64" or "4-5" that `allowed` has; -1 when there is none.
int first_allowed(const char* list, const cpu_set_t& allowed) {
  for (const char* p = list; *p != '\0';) {
    int64_t first = 0;
    if (!parse_number(p, first)) return -1;
    int64_t last = first;
    if (*p == '-' && !parse_number(++p, last)) return -1;
    for (int64_t i = first; i <= last && i < CPU_SETSIZE; ++i) {
      if (CPU_ISSET(static_cast<size_t>(i), &allowed)) return static_cast<int>(i);
    }
    if (*p == ',') ++p;
  }
  return -1;
}

// A core counts once: by its lowest hardware thread that we may use.
uint32_t allowed_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? static_cast<uint32_t>(n) : 1;
  }
  uint32_t cores = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(static_cast<size_t>(cpu), &allowed)) continue;
    char path[96], siblings[256];
    Writer(path, sizeof path)
        .put("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list");
    const bool known = read_text(path, siblings, sizeof siblings);
    const int first = known ? first_allowed(siblings, allowed) : -1;
    if (first < 0 || first == cpu) ++cores;
  }
  return cores;
}

// Whole CPUs that "cpu.max" ("quota period" or "max period") grants; 0: no limit.
uint32_t quota_of(const char* directory) {
  char path[512], text[64];
  Writer(path, sizeof path).put("/sys/fs/cgroup", directory, "/cpu.max");
  if (!read_text(path, text, sizeof text)) return 0;
  const char* p = text;
  int64_t quota = 0, period = 0;
  if (!parse_number(p, quota) || *p++ != ' ' || !parse_number(p, period) || period == 0) return 0;
  const int64_t cpus = (quota + period - 1) / period;
  return static_cast<uint32_t>(cpus < 1 ? 1 : cpus > 4096 ? 4096 : cpus);
}

// The smallest quota of our cgroup (version 2) and the ones around it; 0: no limit.
uint32_t cgroup_quota() {
  char text[512];
  if (!read_text("/proc/self/cgroup", text, sizeof text)) return 0;
  const char* line = std::strstr(text, "0::/");
  if (line == nullptr) return 0;
  char directory[384];
  size_t n = 0;
  for (line += 3; *line != '\0' && *line != '\n' && n + 1 < sizeof directory;) {
    directory[n++] = *line++;
  }
  uint32_t least = 0;
  for (;;) {
    while (n > 0 && directory[n - 1] == '/') --n;
    directory[n] = '\0';
    const uint32_t quota = quota_of(directory);
    if (quota != 0 && (least == 0 || quota < least)) least = quota;
    if (n == 0) return least;
    while (n > 0 && directory[n - 1] != '/') --n;
  }
}

}  // namespace

uint32_t usable_cores() {
  const uint32_t cores = allowed_cores();
  const uint32_t quota = cgroup_quota();
  const uint32_t n = quota != 0 && quota < cores ? quota : cores;
  return n == 0 ? 1 : n;
}

}  // namespace mica::cpu
