// What the CUDA and Vulkan backends share: a unit of a partition seen as device addresses, and the
// choice of the kernel that runs it. A kernel is recorded once, at compile; everything that changes
// between steps (live counts, tokens, tables) it reads from device memory when it runs.
#pragma once
#include "backends/choose.h"
#include "backends/kernel_row.h"
#include "backends/known_args_check.h"

namespace mica::gpu {

constexpr uint32_t kMaxMembers = 16;  // of a region

struct Tensor {
  mica_dtype dtype;
  uint32_t layout;  // of weights, states and private values
  uint32_t rank;
  uint32_t storage;   // mica_b_storage
  int64_t dim[4];     // maxima: grids and workspaces are sized by them
  int64_t stride[4];  // bytes
  uint64_t address;   // on the device. 0: absent, or a value that lives inside its region only.
                      // Before there is one, it only tells how the real one is aligned
  uint64_t live;      // of the I32 on the device that holds the live dim[rank - 1]; 0: the maximum

  bool absent() const { return rank == 0; }
};

// One node, bound. Of a claimed region, `members` are its nodes in order and in/out are empty.
struct Call {
  uint32_t op;
  uint32_t n_in;
  const void* args;  // the op's x_args.h struct, on the host
  Tensor in[MICA_B_MAX_INPUTS];
  Tensor out;
  uint64_t workspace;  // device address, sized by Kernel::workspace
  const Call* members;
  uint32_t n_members;
  const void* device;  // the backend's own description of the device, for grids and paths

  template <class Args>
  const Args& arg() const {
    return *static_cast<const Args*>(args);
  }
};

// A row of a kernel file's table. `Recorder` is the backend's: a stream under capture, a command
// buffer. Rows are tried in order; the first whose `supports` says yes is taken.
template <class Recorder>
struct Kernel {
  const char* name;     // op or fusion: the file's name
  const char* variant;  // its name in the file's table, "naive" for the plain one; "" when alone
  // nullptr: yes. Otherwise the reason why not. Sees maxima, and of addresses their alignment to 16
  // bytes: so the row that was described is the one that is recorded.
  const char* (*supports)(const Call& call);
  uint32_t (*numerics)(const Call& call);   // mica_numerics
  uint64_t (*workspace)(const Call& call);  // bytes for maxima; nullptr: 0
  mica_status (*record)(const Call& call, Recorder& recorder);
  // Whether it reads that operand of a node (kOutputOperand: writes it) in a layout that is not 0;
  // nullptr: plain rows only. Asked before `supports`, which sees no other layout.
  bool (*takes)(const Call& node, uint32_t operand, uint32_t layout) = nullptr;
};

template <class Recorder>
struct KernelList {
  const char* name;
  const Kernel<Recorder>* rows;
  uint32_t n;
  KnownArgs known[kMostKnownArgs];  // of the op's args, or of a region's members'
};

// A unit with its call. `call.members` points at `members`: after a copy call fix().
struct Bound {
  Call call;
  Call members[kMaxMembers];
  const char* name;  // of the op or fusion; nullptr: nothing to run (views)
  void fix() { call.members = call.n_members > 0 ? members : nullptr; }
};

// What a unit is: a node or a region, the other MICA_B_NONE.
struct UnitRef {
  uint32_t node;
  uint32_t region;
};

// Fills the call. `bases`: a device address for each of the partition's buffers, a multiple of 16;
// nullptr: values that are present get an address that is not to be used, but is, modulo 16, what
// the real one will be. UNSUPPORTED: `reason` says why.
mica_status bind(const mica_b_partition& partition, UnitRef unit, const uint64_t* bases,
                 const void* device, Bound& out, Writer& reason);

}  // namespace mica::gpu
