// concat: b behind a along one dimension, bit by bit.
#include "backends/cuda/kernels/plain_rows.cuh"
#include "ops/concat_args.h"

namespace mica::cuda {
namespace {

constexpr int kThreads = 256;

// Rows of one input as units of 2 to 16 bytes.
struct Part {
  Tensor x;         // its rows are counted
  uint64_t to;      // address of its first unit in the output
  int64_t n_units;  // of a row
  int64_t stride;   // bytes from unit to unit; in the output they are adjacent
};
struct ConcatArgs {
  Part part[2];
  int64_t out_stride[4];
  int unit;  // bytes
};

template <class Unit>
__device__ void copy_rows(const ConcatArgs& a, const Part& p) {
  const int64_t n_rows = live_rows(p.x);
  const int64_t row_tiles = (p.n_units + kThreads - 1) / kThreads;
  for (int64_t tile = blockIdx.x; tile < n_rows * row_tiles; tile += gridDim.x) {
    const int64_t i_row = tile / row_tiles;
    const int64_t i = (tile - i_row * row_tiles) * kThreads + threadIdx.x;
    if (i >= p.n_units) continue;
    const RowIndex r = row_index(p.x, i_row);
    char* to = reinterpret_cast<char*>(p.to) + r.i1 * a.out_stride[1] + r.i2 * a.out_stride[2] +
               r.i3 * a.out_stride[3];
    reinterpret_cast<Unit*>(to)[i] = *reinterpret_cast<const Unit*>(row_at(p.x, r) + i * p.stride);
  }
}

// blockIdx.y: which input.
__global__ void __launch_bounds__(kThreads) concat_rows(ConcatArgs a) {
  start_next();
  wait_for_inputs();
  const Part& p = a.part[blockIdx.y];
  if (a.unit == 16) {
    copy_rows<uint4>(a, p);
  } else if (a.unit == 8) {
    copy_rows<uint2>(a, p);
  } else if (a.unit == 4) {
    copy_rows<uint32_t>(a, p);
  } else {
    copy_rows<uint16_t>(a, p);
  }
}

// Whether both the tensor's rows and where they go can be taken in units of so many bytes.
bool aligned(const ConcatArgs& a, const Part& p, uint64_t unit) {
  uint64_t all = p.x.address | p.to | static_cast<uint64_t>(p.n_units);
  for (int i = 1; i < 4; ++i) {
    if (p.x.dim[i] == 1) continue;
    all |= static_cast<uint64_t>(p.x.stride[i]) | static_cast<uint64_t>(a.out_stride[i]);
  }
  return all % unit == 0;
}

mica_status record(const Call& call, Recorder& recorder) {
  const uint32_t along = call.arg<mica_concat_args>().dim;
  const Tensor& out = call.out;
  const BlockInfo info = block_info(out.dtype);
  ConcatArgs a = {};
  for (int i = 0; i < 4; ++i) a.out_stride[i] = out.stride[i];
  bool dense = true;
  for (int k = 0; k < 2; ++k) {
    Part& p = a.part[k];
    p.x = call.in[k];
    p.n_units = p.x.dim[0] / info.elems * info.bytes;  // bytes, so far
    p.to = out.address;
    dense = dense && dense_rows(p.x);
  }
  const Tensor& first = a.part[0].x;
  a.part[1].to +=
      static_cast<uint64_t>(along == 0 ? a.part[0].n_units : first.dim[along] * out.stride[along]);
  // Rows without gaps are bytes, whatever is in them; others go element by element.
  a.unit = static_cast<int>(info.bytes);
  if (dense) {
    a.unit = 16;
    while (a.unit > 2 && !(aligned(a, a.part[0], static_cast<uint64_t>(a.unit)) &&
                           aligned(a, a.part[1], static_cast<uint64_t>(a.unit))))
      a.unit /= 2;
  }
  int64_t tiles = 1;
  for (Part& p : a.part) {
    p.n_units /= a.unit;
    p.stride = dense ? a.unit : p.x.stride[0];
    const int64_t n = (p.n_units + kThreads - 1) / kThreads * rows_of(p.x);
    tiles = n > tiles ? n : tiles;
  }
  dim3 grid = grid_for(call, tiles, 8);
  grid.y = 2;
  return launch(recorder, concat_rows, grid, dim3(kThreads), 0, a);
}

constexpr Kernel kRows[] = {{"concat", "", nullptr, numerics_exact, nullptr, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(concat, kRows, MICA_KNOWS(concat, dim))
