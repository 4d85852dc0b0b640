// What the leaves of a case hold.
#include "tests/conformance/values.h"

#include <cstring>
#include <map>
#include <random>
#include <tuple>

namespace mica::conformance {
namespace {

uint64_t mix(uint64_t seed, const std::string& text, uint64_t step) {
  uint64_t h = 0xcbf29ce484222325ull ^ (seed * 0x9e3779b97f4a7c15ull) ^ step;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return h ^ (h >> 31);
}

std::vector<float> make_values(const Values& v, size_t n, uint64_t seed) {
  std::mt19937_64 rng(seed);
  const bool rows = v.kind == Values::kRows;
  std::normal_distribution<double> gauss(rows ? 0 : v.a, rows ? 1 : v.b);
  std::uniform_real_distribution<double> flat(v.a, v.b);
  std::uniform_int_distribution<int64_t> whole(static_cast<int64_t>(v.a),
                                               static_cast<int64_t>(v.b < v.a ? v.a : v.b));
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) {
    double x = 0;
    switch (v.kind) {
      case Values::kNormal:
        x = gauss(rng);
        break;
      case Values::kUniform:
        x = flat(rng);
        break;
      case Values::kIntegers:
        x = static_cast<double>(whole(rng));
        break;
      case Values::kIota:
        x = v.a + v.b * static_cast<double>(i);
        break;
      case Values::kList:
      case Values::kBits:
        x = v.list[i % v.list.size()];
        break;
      case Values::kRows:
        x = gauss(rng) * v.list[i / static_cast<size_t>(v.a) % v.list.size()];
        break;
    }
    out[i] = static_cast<float>(x);
  }
  return out;
}

std::vector<unsigned char> encode(mica_dtype dtype, const std::vector<float>& values) {
  const mica_dtype_info* info = mica_dtype_get(dtype);
  std::vector<unsigned char> bytes(values.size() / info->block_elems * info->block_bytes);
  if (dtype == MICA_I32 || dtype == MICA_I64) {
    for (size_t i = 0; i < values.size(); ++i) {
      const auto wide = static_cast<int64_t>(values[i]);
      const auto narrow = static_cast<int32_t>(wide);
      if (dtype == MICA_I32) std::memcpy(&bytes[i * 4], &narrow, 4);
      if (dtype == MICA_I64) std::memcpy(&bytes[i * 8], &wide, 8);
    }
    return bytes;
  }
  const mica_status status = mica_dtype_encode(dtype, values.data(), bytes.data(), values.size());
  if (status != MICA_OK) bytes.clear();
  return bytes;
}

// Numbers to the bits that they are.
std::vector<unsigned char> bits_of(mica_dtype dtype, const std::vector<float>& values) {
  const size_t bytes = dtype == MICA_F32 ? 4 : 2;
  std::vector<unsigned char> out(values.size() * bytes);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto bits = static_cast<uint32_t>(values[i]);
    std::memcpy(&out[i * bytes], &bits, bytes);
  }
  return out;
}

size_t elements(const std::vector<int64_t>& dim) {
  size_t n = 1;
  for (const int64_t d : dim) n *= static_cast<size_t>(d);
  return n;
}

// All that a leaf's bytes depend on.
using Key = std::tuple<std::string, mica_dtype, std::vector<int64_t>, int, double, double,
                       std::vector<double>, uint64_t, uint64_t>;

}  // namespace

std::vector<unsigned char> leaf_bytes(const std::string& name, mica_dtype dtype,
                                      const std::vector<int64_t>& dim, const Values& values,
                                      uint64_t seed, uint64_t step) {
  // Each device, variant and run of a case asks for them: drawing and encoding them anew was a
  // third of the suite's time.
  constexpr size_t kMostBytes = size_t{64} << 20;
  static std::map<Key, std::vector<unsigned char>> known;
  static size_t n_bytes = 0;
  const Key key(name, dtype, dim, values.kind, values.a, values.b, values.list, seed, step);
  if (const auto at = known.find(key); at != known.end()) return at->second;
  const std::vector<float> numbers = make_values(values, elements(dim), mix(seed, name, step));
  std::vector<unsigned char> bytes =
      values.kind == Values::kBits ? bits_of(dtype, numbers) : encode(dtype, numbers);
  if (n_bytes + bytes.size() > kMostBytes) known.clear(), n_bytes = 0;
  n_bytes += bytes.size();
  return known[key] = std::move(bytes);
}

}  // namespace mica::conformance
