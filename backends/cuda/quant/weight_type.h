// What the CUDA backend can do with weights of a data type: one WeightType a type, in
// quant/<name>.cu, which holds all device code that is compiled once a type.
#pragma once
#include "backends/cuda/kernel.h"
#include "backends/cuda/quant/packed.h"

namespace mica::cuda {

// Matrix multiplication: x [k, m, b2, b3] times w [k, n, c2, c3] -> out [n, m, b2, b3], packed.
struct MatmulArgs {
  const uint8_t* w;
  const uint8_t* x;
  float* out;
  void* workspace;
  uint64_t live;                     // as in Tensor: of m if rank is 2, of b2 if 3, of b3 if 4
  Packed layout;                     // of w, if it is packed
  int64_t w_stride[3], x_stride[3];  // bytes between rows, slices, and slices of slices
  int64_t k, n, m, b2, b3;
  int64_t c2;           // w's slices
  int64_t r2, r3;       // slices of x that share one of w
  uint32_t rank;        // of x and out
  uint32_t packed;      // w is packed
  uint32_t w_constant;  // w is a weight: it may be read before the inputs are there
  mica_dtype w_type, x_type;
};

struct GetRowsArgs {
  const uint8_t* table;
  const int32_t* ids;
  float* out;
  uint64_t live_ids, live_rows;
  Packed layout;
  int64_t stride;  // bytes, of plain rows
  int64_t k, n_rows, n_ids;
  uint32_t packed;
  mica_dtype type;
};

// Rows [first, first + n) between GGUF's form and a packed weight.
struct PackArgs {
  uint8_t* weight;
  uint8_t* rows;
  Packed layout;
  int64_t k, n_per_slice;
  int64_t first, n;
};

struct RandomArgs {
  uint8_t* weight;
  Packed layout;
  int64_t k, n_per_slice;
  int64_t n;  // rows in all; of plain types elements in all
  uint64_t seed;
};

// Rows [first, first + n) of one slice of a packed weight as F16, [n][k]; first is a multiple of 8.
struct HalveArgs {
  const uint8_t* w;  // the slice
  uint16_t* out;     // a multiple of 16
  Packed layout;
  int64_t k, first, n;
};

struct WeightType {
  mica_dtype dtype;
  PartSizes parts;                                    // units == 0: rows stay plain
  mica_status (*pack)(Recorder&, const PackArgs&);    // nullptr: plain
  mica_status (*unpack)(Recorder&, const PackArgs&);  // nullptr: plain
  mica_status (*random)(Recorder&, const RandomArgs&);
  mica_status (*get_rows)(Recorder&, const GetRowsArgs&);
  // Matrix multiplications; nullptr: none. What they need is said in kernels/matmul.cu.
  mica_status (*naive)(Recorder&, const MatmulArgs&);
  mica_status (*matvec)(Recorder&, const MatmulArgs&);
  mica_status (*tiles)(Recorder&, const MatmulArgs&);
  mica_status (*halve)(Recorder&, const HalveArgs&);  // nullptr: plain
};

#define MICA_DTYPE(NAME, name, id, block_elems, block_bytes) extern const WeightType weight_##name;
#include "mica/dtype.def"
#undef MICA_DTYPE

inline const WeightType* find_weight_type(mica_dtype dtype) {
  switch (dtype) {
#define MICA_DTYPE(NAME, name, id, block_elems, block_bytes) \
  case MICA_##NAME:                                          \
    return &weight_##name;
#include "mica/dtype.def"
#undef MICA_DTYPE
    default:
      return nullptr;
  }
}

}  // namespace mica::cuda
