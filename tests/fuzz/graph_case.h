// What a random graph is made of: random numbers that are the same everywhere, the leaves with what
// they hold, and the values a graph has so far.
#pragma once
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "mica/mica.h"

namespace mica::fuzz {

// SplitMix64 (Steele et al., OOPSLA 2014): the same numbers with every standard library.
class Rng {
 public:
  Rng(uint64_t seed, uint64_t stream) : state_(seed * 0x9e3779b97f4a7c15ull + stream) {
    next();
    next();
  }
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
  }
  int64_t in(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1));
  }
  bool chance(int percent) { return in(0, 99) < percent; }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  // The sum of four uniform numbers: near enough to a normal one, and never far out.
  double normal() {
    const uint64_t bits = next();
    double sum = -2;
    for (int i = 0; i < 64; i += 16) sum += static_cast<double>(bits >> i & 0xffff) * 0x1p-16;
    return sum * 1.7320508;
  }
  template <class T>
  const T& of(const std::vector<T>& list) {
    return list[static_cast<size_t>(in(0, static_cast<int64_t>(list.size()) - 1))];
  }

 private:
  uint64_t state_;
};

using Dims = std::vector<int64_t>;

// What a leaf holds.
struct Fill {
  // kDistinct: integers from a on in a random order, each once; kMask: 0, -infinity and normals.
  enum Kind { kNormal, kUniform, kIntegers, kDistinct, kMask } kind = kNormal;
  double a = 0, b = 1;
  double size() const {  // about the largest magnitude
    return kind == kNormal || kind == kMask ? std::fabs(a) + 4 * b
                                            : std::fmax(std::fabs(a), std::fabs(b));
  }
};

// An extent of the case: the same name and maximum in each of its graphs.
struct CaseExtent {
  std::string name;
  int64_t max = 1;
  int64_t live = 1;  // in the coming run
};

struct Leaf {
  std::string name;
  mica_dtype dtype;
  Dims dim;
  Fill fill;
  int extent = -1;       // of the case's
  bool written = false;  // by set_rows
  bool exact = true;     // what is written into it
  std::vector<unsigned char> bytes;
};

// What it holds at a time: a weight at 0, an input in each round.
std::vector<unsigned char> leaf_bytes(const Leaf& leaf, uint64_t seed, uint64_t time);

// A value of a graph.
struct Item {
  mica_tensor t{};
  mica_dtype dtype = MICA_F32;
  uint32_t rank = 0;
  int64_t dim[4] = {1, 1, 1, 1};
  int extent = -1;     // of the case's, on dim[rank - 1]
  bool packed = true;  // elements are adjacent
  bool rows = true;    // elements of a row are
  bool exact = true;   // every backend must have the reference's bits
  bool is_leaf = false;
  bool of_weight = false;  // a weight or a view of one
  double size = 1;         // about its largest magnitude
  int reads = 0;
  Dims dims() const { return Dims(dim, dim + rank); }
  int64_t elements() const { return dim[0] * dim[1] * dim[2] * dim[3]; }
};

// A builder refused: the graph has an error, and the case is made again without this piece.
struct Refused {
  int piece;
  mica_status status;
  std::string text;
};

inline bool is_float(mica_dtype d) { return d == MICA_F32 || d == MICA_F16 || d == MICA_BF16; }
inline int64_t block_of(mica_dtype d) { return mica_dtype_get(d)->block_elems; }
inline bool is_quantized(mica_dtype d) { return mica_dtype_get(d)->is_quantized != 0; }

inline std::string text_of(const Dims& dim) {
  std::string text = "[";
  for (size_t i = 0; i < dim.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(dim[i]);
  return text + "]";
}

}  // namespace mica::fuzz
