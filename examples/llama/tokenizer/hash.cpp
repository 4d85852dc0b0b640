// The seed of the hash tables.
#include "hash.h"

namespace mica_llama {

uint64_t hash_seed() {
  static const char here = 0;
  const int on_stack = 0;
  const auto data = reinterpret_cast<uintptr_t>(&here);
  const auto stack = reinterpret_cast<uintptr_t>(&on_stack);
  return hash_mix(data ^ 0xa0761d6478bd642fu, stack ^ 0xe7037ed1a0b428dbu);
}

}  // namespace mica_llama
