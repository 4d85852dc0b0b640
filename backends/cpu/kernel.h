// What a CPU kernel is. Every file kernels/<name>.cpp is compiled once per instruction set, in
// namespace mica::cpu::MICA_ISA, and exports one KernelList; CMake registers it because it exists.
//
// Files compiled for an instruction set see only POD types and their own namespace: no std:: with
// shared inline functions (std::min, std::sqrt, …), no core classes. Otherwise the linker may keep
// the AVX-512 copy of a shared inline function for every CPU.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "backends/kernel_row.h"
#include "backends/known_args.h"

namespace mica::cpu {

constexpr uint32_t kMaxThreads = 256;
constexpr uint32_t kLayoutPlain = 0;  // rows as GGUF has them
// 16 rows interleaved, 4 consecutive elements of a row in 32 bits: quant/<type>.h says how.
constexpr uint32_t kLayoutRows16 = 1;
// K and V pages: kernels/kv_page.h says how.
constexpr uint32_t kLayoutKvPage = 2;
// Temporaries rounded for matmul, in panels (quant/rows16.h): + the dtype of the weights they meet.
constexpr uint32_t kLayoutPanels = 0x200;

struct Features {  // of the running CPU, beyond the ISA a file is compiled for
  uint32_t avx512_bf16;
};

// A value at run time: dims are live (an extent's value, not its maximum); at compile, maxima.
struct Tensor {
  mica_dtype dtype;
  uint32_t layout;
  uint32_t storage;  // mica_b_storage
  int64_t dim[4];
  int64_t stride[4];      // bytes
  int64_t max_slices[2];  // maxima of dim[2] and dim[3]
  char* data;             // nullptr: absent optional input
};

// One node, bound. Of a claimed region, `members` are its nodes in order and `in`/`out` are empty:
// a member's output that lives only inside the region has data == nullptr.
struct Call {
  uint32_t op;
  uint32_t n_in;
  const void* args;
  Tensor in[MICA_B_MAX_INPUTS];
  Tensor out;
  char* workspace;  // shared by the threads; sized by workspace() for maxima
  const Call* members;
  uint32_t n_members;
  const Features* features;
};

// A kernel runs in phases with a barrier between them; a phase is a number of items that any thread
// may take in any order. How work is cut into items depends on shapes alone, never on the number of
// threads: results are the same with any.
struct Kernel {
  const char* name;     // op or fusion: the file's name
  const char* variant;  // its name in the file's table, "naive" for the plain one; "" when alone
  uint32_t n_phases;    // 1 … 4
  // nullptr: yes. Otherwise the reason why not. The first row of a list that says yes runs.
  const char* (*supports)(const Call& call);
  uint32_t (*numerics)(const Call& call);              // mica_numerics
  uint64_t (*workspace)(const Call& call);             // nullptr: 0
  uint64_t (*scratch)(const Call& call);               // a thread's own bytes; nullptr: 0
  int64_t (*items)(const Call& call, uint32_t phase);  // with live dims; may be 0
  void (*run)(const Call& call, uint32_t phase, int64_t first, int64_t end, char* scratch);
  // Items worth taking at a time (cheap items: many); nullptr: 1.
  int64_t (*grain)(const Call& call, uint32_t phase);
  // Of kernels whose first matmul can take its x in kLayoutPanels: the bytes of that, or 0.
  uint64_t (*panel_bytes)(const Call& call) = nullptr;
  // The last member's output, or the node's, can be made in kLayoutPanels.
  bool makes_panels = false;
  // Whether it reads that operand of a node (kOutputOperand: writes it) in a layout that is not
  // kLayoutPlain; nullptr: plain rows only. Asked before `supports`, which sees no other layout.
  bool (*takes)(const Call& node, uint32_t operand, uint32_t layout) = nullptr;
};

struct KernelList {
  const Kernel* rows;
  uint32_t n;
  KnownArgs known[kMostKnownArgs];  // of the op's args, or of a region's members'
};

}  // namespace mica::cpu

// Opens and closes the ISA's namespace; MICA_ISA is plain, avx2 or avx512.
#define MICA_CPU_BEGIN  \
  namespace mica::cpu { \
  namespace MICA_ISA {
#define MICA_CPU_END \
  }                  \
  }
// At the end of kernels/<name>.cpp, inside MICA_CPU_BEGIN/END: MICA_CPU_KERNELS(mul, rows), and of
// an op with options, or a region of such, MICA_CPU_KERNELS(rms_norm, rows, MICA_KNOWS(rms_norm,
// eps)).
#define MICA_CPU_KERNELS(name, rows, ...) \
  static_assert(rows_have_names(rows));   \
  extern const KernelList kernels_##name; \
  const KernelList kernels_##name = {rows, sizeof(rows) / sizeof((rows)[0]), {__VA_ARGS__}};
