// cuBLASLt, opened when it is first wanted. It is never linked: where it is absent, or switched off
// by MICA_CUDA_CUBLASLT=0 in the environment, the backend's own kernels multiply. The variable may
// also hold the path of the library.
#pragma once
#include "backends/cuda/driver.h"

namespace mica::cuda {

// What of cuBLASLt's API is used, declared here so that its header is not needed to build. The
// values and sizes are those of cublasLt.h (cuBLAS 12 and 13), which a unit test compares.
namespace lt {

using Status = int;  // cublasStatus_t
constexpr Status kSuccess = 0;
constexpr int kCompute32F = 68;                   // CUBLAS_COMPUTE_32F
constexpr int kTransposed = 1;                    // CUBLAS_OP_T
constexpr int kR32F = 0, kR16F = 2, kR16BF = 14;  // cudaDataType
constexpr int kDescTransA = 3;                    // CUBLASLT_MATMUL_DESC_TRANSA
constexpr int kPrefWorkspace = 1;                 // CUBLASLT_MATMUL_PREF_…
constexpr int kPrefAlignA = 5, kPrefAlignB = 6, kPrefAlignC = 7, kPrefAlignD = 8;

struct Algo {
  uint64_t data[8];
};
struct Heuristic {
  Algo algo;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

// In the order of kNames in cublaslt.cpp.
struct Functions {
  Status (*create)(void** out_handle);
  Status (*destroy)(void* handle);
  Status (*desc_create)(void** out, int compute_type, int scale_type);
  Status (*desc_destroy)(void* desc);
  Status (*desc_set)(void* desc, int attribute, const void* value, size_t bytes);
  Status (*layout_create)(void** out, int type, uint64_t rows, uint64_t columns, int64_t ld);
  Status (*layout_destroy)(void* layout);
  Status (*preference_create)(void** out);
  Status (*preference_destroy)(void* preference);
  Status (*preference_set)(void* preference, int attribute, const void* value, size_t bytes);
  Status (*heuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d,
                      void* preference, int n_wanted, Heuristic* out, int* out_n);
  Status (*matmul)(void* handle, void* desc, const void* alpha, const void* a, void* a_layout,
                   const void* b, void* b_layout, const void* beta, const void* c, void* c_layout,
                   void* d, void* d_layout, const Algo* algo, void* workspace,
                   size_t workspace_bytes, cudaStream_t stream);
};

}  // namespace lt

// out [n, m] = w [k, n] times x [k, m], rows of k elements; F32 sums and results.
struct LtShape {
  int64_t n, m, k;
  int64_t ld_w, ld_x, ld_out;  // elements between rows
  bool bf16;                   // w and x are BF16, otherwise F16
};
// Device addresses, multiples of 16.
struct LtOperands {
  const void* w;
  const void* x;
  void* out;
  void* workspace;  // kLtWorkspaceBytes
};
constexpr uint64_t kLtWorkspaceBytes = uint64_t{32} << 20;

class CublasLt {
 public:
  CublasLt() = default;
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // Of a device's first use; `driver` and the device outlive this.
  void attach(const Driver& driver, int device_index) { driver_ = &driver, device_ = device_index; }
  // nullptr: it is there and multiplies this shape. Otherwise why not. Opens the library.
  const char* supports(const LtShape& shape);
  // Into the stream, which may be under capture once the same shape ran outside of one: what that
  // loads is not to be loaded under capture. False: it failed.
  bool multiply(const LtShape& shape, const LtOperands& operands, cudaStream_t stream);
  void close();

  // Takes these functions instead of a library's; for tests.
  const char* open_with(const lt::Functions& functions);

 private:
  const char* open();
  const char* load();
  const char* start();

  const Driver* driver_ = nullptr;
  int device_ = 0;
  bool tried_ = false;         // open() was called
  const char* why_ = nullptr;  // what it said
  void* library_ = nullptr;
  void* handle_ = nullptr;
  lt::Functions functions_ = {};
};

}  // namespace mica::cuda
