// The table of ops, and packed descriptions.
#include "core/graph/op.h"

#include <algorithm>

namespace mica {
namespace {

const OpDef* const kOps[] = {
#define MICA_OP(id, name, family) &op_##name,
#define MICA_COMPOSITE(name, family)
#include "ops/ops.def"
#undef MICA_OP
#undef MICA_COMPOSITE
    nullptr};

}  // namespace

const OpDef* find_op(uint32_t id) {
  for (const OpDef* op : kOps)
    if (op == nullptr || op->id == id) return op;
  return nullptr;
}

const OpDef* const* all_ops() { return kOps; }

bool contiguous(mica_dtype dtype, const int64_t* dim, const int64_t* stride) {
  const Desc packed = make_desc(dtype, 4, dim);
  if (dim[0] / dtype_info(dtype).block_elems != 1 && stride[0] != packed.stride[0]) return false;
  for (int i = 1; i < 4; ++i)
    if (dim[i] != 1 && stride[i] != packed.stride[i]) return false;
  return true;
}

// Unsigned, so that dimensions nobody has checked yet wrap instead of being undefined.
void Desc::pack() {
  const mica_dtype_info& info = dtype_info(dtype);
  uint64_t bytes = info.block_bytes;
  for (uint32_t i = 0; i < 4; ++i) {
    stride[i] = static_cast<int64_t>(bytes);
    bytes *= static_cast<uint64_t>(i == 0 ? dim[0] / info.block_elems : dim[i]);
  }
}

Desc make_desc(mica_dtype dtype, uint32_t rank, const int64_t* dim, uint32_t extent) {
  Desc desc;
  desc.dtype = dtype;
  desc.rank = rank;
  desc.extent = extent;
  for (uint32_t i = 0; i < rank && i < 4; ++i) desc.dim[i] = dim[i];
  desc.pack();
  return desc;
}

mica_b_value make_value(const Desc& desc) {
  mica_b_value v{};
  v.dtype = desc.dtype;
  v.rank = desc.rank;
  std::copy_n(desc.dim, 4, v.dim);
  std::copy_n(desc.stride, 4, v.stride);
  v.extent = desc.extent != kNoExtent ? desc.extent : MICA_B_NONE;
  return v;
}

}  // namespace mica
