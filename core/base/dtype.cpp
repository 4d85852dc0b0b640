// The one rule for tensor sizes.
#include "core/base/dtype.h"

#include "core/base/checked.h"

namespace mica {

bool tensor_bytes(const mica_dtype_info& d, uint32_t rank, const int64_t* dim, uint64_t& out_bytes,
                  Error& error) {
  if (rank < 1 || rank > 4) {
    error.fail(MICA_INVALID_ARGUMENT, "rank is ", rank, ", not 1 to 4");
    return false;
  }
  for (uint32_t i = 0; i < rank; ++i) {
    if (dim[i] >= 1) continue;
    error.fail(MICA_INVALID_ARGUMENT, "dim[", i, "] is ", dim[i], ", less than 1");
    return false;
  }
  if (dim[0] % d.block_elems != 0) {
    error.fail(MICA_INVALID_ARGUMENT, "dim[0] is ", dim[0], ", not a multiple of ", d.block_elems,
               ", the block of ", d.name);
    return false;
  }
  // Both counts must fit, each on its own: a block may have more or fewer bytes than elements.
  int64_t elems = dim[0];
  int64_t bytes = 0;
  bool fits = checked_mul<int64_t>(dim[0] / d.block_elems, d.block_bytes, bytes);
  for (uint32_t i = 1; i < rank && fits; ++i) {
    fits = checked_mul(elems, dim[i], elems) && checked_mul(bytes, dim[i], bytes);
  }
  if (!fits) {
    error.fail(MICA_INVALID_ARGUMENT, "the size does not fit in 63 bits");
    return false;
  }
  out_bytes = static_cast<uint64_t>(bytes);
  return true;
}

}  // namespace mica
