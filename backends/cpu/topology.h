// How many threads are worth having.
#pragma once
#include <cstdint>

namespace mica::cpu {

// Physical cores that this process may run on, limited by its cgroup's CPU quota; at least 1.
uint32_t usable_cores();

}  // namespace mica::cpu
