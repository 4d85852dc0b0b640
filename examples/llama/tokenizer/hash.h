// A hash for tables whose keys come from a file.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace mica_llama {

// The two halves of a product of 128 bits, folded. Each bit of the result depends on the whole of
// both factors, so that without the seed nobody can write keys that meet in one slot.
inline uint64_t hash_mix(uint64_t a, uint64_t b) {
  __extension__ typedef unsigned __int128 Wide;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t hash_text(std::string_view text, uint64_t seed) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15u;  // 2^64 over the golden ratio
  uint64_t hash = seed ^ text.size();
  while (!text.empty()) {
    uint64_t word = 0;
    const size_t n = text.size() < sizeof word ? text.size() : sizeof word;
    std::memcpy(&word, text.data(), n);
    hash = hash_mix(hash ^ word, kOdd ^ (seed << 1));
    text.remove_prefix(n);
  }
  return hash_mix(hash ^ kOdd, seed | 1);
}

// Another one in each run: where the program lies in memory is chosen by the system at its start.
uint64_t hash_seed();

}  // namespace mica_llama
