// What an op is: one OpDef per row of ops/ops.def, defined in ops/<family>.cpp.
#pragma once
#include "core/base/dtype.h"
#include "core/base/text.h"
#include "mica/backend.h"
#include "mica/graph.h"

namespace mica {

constexpr uint32_t kNoExtent = 0;

// Rows are adjacent and in order: the tensor is one run of bytes.
bool contiguous(mica_dtype dtype, const int64_t* dim, const int64_t* stride);

// A value's description while building. `extent` (index, 0: none) belongs to dim[rank - 1].
struct Desc {
  mica_dtype dtype = MICA_F32;
  uint32_t rank = 0;
  int64_t dim[4] = {1, 1, 1, 1};
  int64_t stride[4] = {0, 0, 0, 0};  // bytes; stride[0]: one element or one block
  uint32_t extent = kNoExtent;

  int64_t elements() const { return dim[0] * dim[1] * dim[2] * dim[3]; }
  bool contiguous() const { return mica::contiguous(dtype, dim, stride); }
  // Sets packed strides from dtype and dim.
  void pack();
};
// A packed Desc; dims beyond rank are 1.
Desc make_desc(mica_dtype dtype, uint32_t rank, const int64_t* dim, uint32_t extent = kNoExtent);
// As a backend is told of it, without a place.
mica_b_value make_value(const Desc& desc);

// Validation and shape inference. `in[i]` of an absent optional input has rank 0.
struct InferCall {
  const Desc* in;
  uint32_t n_in;
  const void* args;
  Desc& out;
  Error& error;  // `return call.error.fail(MICA_INVALID_ARGUMENT, "k has ", n, " kv heads");`
};

// A tensor with data, for references: host memory, plain rows, live dimensions (an extent's value,
// not its maximum).
struct HostTensor {
  mica_dtype dtype = MICA_F32;
  int64_t dim[4] = {1, 1, 1, 1};
  int64_t stride[4] = {0, 0, 0, 0};
  void* data = nullptr;               // nullptr: absent optional input
  int64_t max_dim[4] = {0, 0, 0, 0};  // where it is not 0, the maximum of that dimension

  // What rules about sizes go by: an extent's value changes from step to step, its maximum never.
  int64_t most(int i) const { return max_dim[i] != 0 ? max_dim[i] : dim[i]; }
  bool present() const { return data != nullptr; }
  int64_t elements() const { return dim[0] * dim[1] * dim[2] * dim[3]; }
  const char* row(int64_t i1, int64_t i2 = 0, int64_t i3 = 0) const {
    return static_cast<const char*>(data) + i1 * stride[1] + i2 * stride[2] + i3 * stride[3];
  }
  // Any dtype; quantized ones decode a block, so prefer read_row for whole rows.
  double at(int64_t i0, int64_t i1 = 0, int64_t i2 = 0, int64_t i3 = 0) const;
  int64_t int_at(int64_t i0, int64_t i1 = 0, int64_t i2 = 0, int64_t i3 = 0) const;  // I32, I64
  // All dim[0] elements of a row.
  void read_row(double* dst, int64_t i1, int64_t i2 = 0, int64_t i3 = 0) const;
  // Rounds once to the dtype, half to even. Quantized types: write_row with whole rows only.
  void set(double value, int64_t i0, int64_t i1 = 0, int64_t i2 = 0, int64_t i3 = 0) const;
  void write_row(const double* src, int64_t i1, int64_t i2 = 0, int64_t i3 = 0) const;
};

struct RefCall {
  const HostTensor* in;
  uint32_t n_in;
  HostTensor out;  // of a state op: the tensor that in[0] names
  const void* args;
  const mica_allocator* allocator;
  mica_numerics numerics = MICA_NUM_F64;  // round activations as a kernel of these numerics does
  // For the conformance bounds, may be nullptr: per output element (packed order of out.dim) the
  // sum of the magnitudes of the terms it is made of, and how many terms there are.
  double* magnitude = nullptr;
  double* n_terms = nullptr;  // one number
  // Not 0: chooses what activations and cells at the border of two steps are rounded to.
  uint64_t border = 0;

  template <class Args>
  const Args& arg() const {
    return *static_cast<const Args*>(args);
  }
};

enum OpFlags : uint32_t {
  kOpPlain = 0,
  kOpView = 1,   // no computation: the output is in[0]'s memory seen with other dims and strides
  kOpState = 2,  // writes rows of in[0] (an input of the step, or a cache); runs in build order
};

struct OpDef {
  uint32_t id;
  const char* name;
  uint32_t n_required;  // inputs that must be present
  uint32_t n_inputs;    // with the optional ones
  uint32_t args_size;   // bytes of the op's args struct, 0 for none
  uint32_t flags;
  int32_t inplace;  // the input whose memory the output may take over if it dies here; -1: none
  // Checks everything a kernel relies on; fills `out` (packed unless a view).
  mica_status (*infer)(const InferCall& call);
  // Views only: byte offset of the output in in[0]; nullptr: 0.
  int64_t (*view_offset)(const InferCall& call);
  // Double precision, plain loops. nullptr for views.
  mica_status (*reference)(const RefCall& call);
};

#define MICA_OP(id, name, family) extern const OpDef op_##name;
#define MICA_COMPOSITE(name, family)
#include "ops/ops.def"
#undef MICA_OP
#undef MICA_COMPOSITE

// nullptr when there is none. all_ops ends with nullptr.
const OpDef* find_op(uint32_t id);
const OpDef* const* all_ops();

// Appends a node. Absent optional inputs are MICA_NO_TENSOR. Returns the invalid tensor and records
// the graph's first error when something is wrong.
mica_tensor append(mica_graph* graph, const OpDef& op, const mica_tensor* in, uint32_t n_in,
                   const void* args, uint32_t args_size);
// As append; or the result of a node that the graph has already, of the same op, inputs and args,
// where it is one of the last few that were made by this function.
mica_tensor append_shared(mica_graph* graph, const OpDef& op, const mica_tensor* in, uint32_t n_in,
                          const void* args, uint32_t args_size);
// What the op with this id, which made `x` (views are seen through), had as its input `i_input`;
// the invalid tensor when another op made it, or none.
mica_tensor made_of(const mica_graph* graph, mica_tensor x, uint32_t op, uint32_t i_input);
// Records a builder's own error (one that infer cannot see).
mica_tensor builder_error(mica_graph* graph, const char* op, const char* text);

// A composite op's builder brackets the plain ops it emits: they become a region of that name.
class RegionScope {
 public:
  RegionScope(mica_graph* graph, const char* fusion);
  ~RegionScope();
  RegionScope(const RegionScope&) = delete;
  RegionScope& operator=(const RegionScope&) = delete;

 private:
  mica_graph* graph_;
};

}  // namespace mica
