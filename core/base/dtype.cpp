// The one rule for tensor sizes.
#include "core/base/dtype.h"

#include "core/base/checked.h"

namespace mica {

bool tensor_bytes(const mica_dtype_info& d, uint32_t rank, const int64_t* dim, uint64_t& out_bytes,
                  Error& error) {
  const auto refuse = [&](auto... parts) {
    error.invalid(parts...);
    return false;
  };
  if (rank < 1 || rank > 4) return refuse("rank is ", rank, ", not 1 to 4");
  for (uint32_t i = 0; i < rank; ++i)
    if (dim[i] < 1) return refuse("dim[", i, "] is ", dim[i], ", less than 1");
  if (dim[0] % d.block_elems != 0)
    return refuse("dim[0] is ", dim[0], ", not a multiple of ", d.block_elems, ", the block of ",
                  d.name);
  // Both counts must fit, each on its own: a block may have more or fewer bytes than elements.
  int64_t elems = dim[0];
  int64_t bytes = 0;
  bool fits = checked_mul<int64_t>(dim[0] / d.block_elems, d.block_bytes, bytes);
  for (uint32_t i = 1; i < rank && fits; ++i)
    fits = checked_mul(elems, dim[i], elems) && checked_mul(bytes, dim[i], bytes);
  if (!fits) return refuse("the size does not fit in 63 bits");
  out_bytes = static_cast<uint64_t>(bytes);
  return true;
}

}  // namespace mica
