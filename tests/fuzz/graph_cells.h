// The reference with the cells of a cache that a device stored: what it makes of them is then
// compared without what became of a rounding before them. A cell whose value lies at the border of
// two steps of its dtype may be rounded either way, and moves all that attention reads from it by
// far more than sums are off by.
#pragma once
#include <vector>

namespace mica::fuzz {

// Plain rows, an entry an op that writes a cache, in the order in which a case's runs come to them.
using Cells = std::vector<std::vector<unsigned char>>;

// What ref stores from here on; NULL: what it computes. Kept by the caller.
void impose_cells(const Cells* cells);

}  // namespace mica::fuzz
