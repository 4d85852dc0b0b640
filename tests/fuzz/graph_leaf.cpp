// What the leaves of a random case hold.
#include <cmath>
#include <cstring>

#include "tests/fuzz/graph_case.h"

namespace mica::fuzz {
namespace {

uint64_t hash(const std::string& text) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return h;
}

std::vector<float> values_of(const Leaf& leaf, size_t n, uint64_t seed, uint64_t time) {
  Rng rng(seed ^ hash(leaf.name), time);
  const Fill& f = leaf.fill;
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) {
    double x = 0;
    if (f.kind == Fill::kNormal) x = f.a + f.b * rng.normal();
    if (f.kind == Fill::kUniform) x = f.a + (f.b - f.a) * rng.unit();
    if (f.kind == Fill::kDistinct) x = f.a + static_cast<double>(i);
    if (f.kind == Fill::kIntegers)
      x = static_cast<double>(rng.in(static_cast<int64_t>(f.a), static_cast<int64_t>(f.b)));
    if (f.kind == Fill::kMask) x = rng.chance(25) ? -INFINITY : rng.chance(50) ? 0 : rng.normal();
    out[i] = static_cast<float>(x);
  }
  for (size_t i = n; f.kind == Fill::kDistinct && i > 1; --i)
    std::swap(out[i - 1], out[static_cast<size_t>(rng.in(0, static_cast<int64_t>(i) - 1))]);
  return out;
}

std::vector<unsigned char> encode(mica_dtype dtype, const std::vector<float>& values) {
  const mica_dtype_info& info = *mica_dtype_get(dtype);
  std::vector<unsigned char> bytes(values.size() / info.block_elems * info.block_bytes);
  if (dtype != MICA_I32 && dtype != MICA_I64) {
    if (mica_dtype_encode(dtype, values.data(), bytes.data(), values.size()) != MICA_OK) return {};
    return bytes;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const auto wide = static_cast<int64_t>(values[i]);
    const auto narrow = static_cast<int32_t>(wide);
    if (dtype == MICA_I32)
      std::memcpy(&bytes[i * 4], &narrow, 4);
    else
      std::memcpy(&bytes[i * 8], &wide, 8);
  }
  return bytes;
}

size_t elements(const Dims& dim) {
  size_t n = 1;
  for (const int64_t d : dim) n *= static_cast<size_t>(d);
  return n;
}

}  // namespace

// The runs of a case ask for the same bytes: those of one seed are kept.
std::vector<unsigned char> leaf_bytes(const Leaf& leaf, uint64_t seed, uint64_t time) {
  static uint64_t seed_kept = 0;
  static std::map<std::string, std::vector<unsigned char>> kept;
  if (seed != seed_kept) kept.clear();
  seed_kept = seed;
  const Fill& f = leaf.fill;
  std::string key = leaf.name + " " + std::to_string(time) + " " + std::to_string(leaf.dtype) +
                    " " + std::to_string(f.kind) + " " + std::to_string(f.a) + " " +
                    std::to_string(f.b);
  for (const int64_t d : leaf.dim) key += " " + std::to_string(d);
  std::vector<unsigned char>& bytes = kept[key];
  if (bytes.empty()) bytes = encode(leaf.dtype, values_of(leaf, elements(leaf.dim), seed, time));
  return bytes;
}

}  // namespace mica::fuzz
