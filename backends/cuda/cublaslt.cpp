// Opening cuBLASLt, and a product by it.
#include "backends/cuda/cublaslt.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

namespace mica::cuda {
namespace {

constexpr const char* kSwitch = "MICA_CUDA_CUBLASLT";
// Beside the names that the system's linker knows, where CUDA's own installer puts it.
constexpr const char* kLibraries[] = {
    "libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13", "libcublasLt.so.12",
    "/usr/local/cuda/lib64/libcublasLt.so.12"};
constexpr const char* kNames[] = {
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmul",
};
constexpr size_t kFunctions = sizeof kNames / sizeof kNames[0];
static_assert(sizeof(lt::Functions) == kFunctions * sizeof(void*), "a name for each function");

// The descriptors of one product, freed with it.
class Problem {
 public:
  Problem(const lt::Functions& f, const LtShape& s) : f_(f) {
    const int type = s.bf16 ? lt::kR16BF : lt::kR16F;
    const auto n = static_cast<uint64_t>(s.n), m = static_cast<uint64_t>(s.m),
               k = static_cast<uint64_t>(s.k);
    const int transposed = lt::kTransposed;
    // Columns are what mica calls rows: w is [k x n] and is transposed, out is [n x m].
    ok_ = f.desc_create(&desc_, lt::kCompute32F, lt::kR32F) == lt::kSuccess &&
          f.desc_set(desc_, lt::kDescTransA, &transposed, sizeof transposed) == lt::kSuccess &&
          f.layout_create(&w_, type, k, n, s.ld_w) == lt::kSuccess &&
          f.layout_create(&x_, type, k, m, s.ld_x) == lt::kSuccess &&
          f.layout_create(&out_, lt::kR32F, n, m, s.ld_out) == lt::kSuccess;
  }
  ~Problem() {
    if (out_ != nullptr) f_.layout_destroy(out_);
    if (x_ != nullptr) f_.layout_destroy(x_);
    if (w_ != nullptr) f_.layout_destroy(w_);
    if (desc_ != nullptr) f_.desc_destroy(desc_);
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  // The algorithm that cuBLASLt thinks is the quickest; the same for equal shapes.
  bool choose(void* handle, lt::Algo& out) const {
    if (!ok_) return false;
    void* preference = nullptr;
    if (f_.preference_create(&preference) != lt::kSuccess) return false;
    const size_t workspace = kLtWorkspaceBytes;
    constexpr uint32_t kAlignment = 16;
    bool ok = f_.preference_set(preference, lt::kPrefWorkspace, &workspace, sizeof workspace) ==
              lt::kSuccess;
    constexpr int kSides[] = {lt::kPrefAlignA, lt::kPrefAlignB, lt::kPrefAlignC, lt::kPrefAlignD};
    for (const int side : kSides)
      ok =
          ok && f_.preference_set(preference, side, &kAlignment, sizeof kAlignment) == lt::kSuccess;
    constexpr int kWanted = 4;
    lt::Heuristic found[kWanted] = {};
    int n = 0;
    ok = ok && f_.heuristic(handle, desc_, w_, x_, out_, out_, preference, kWanted, found, &n) ==
                   lt::kSuccess;
    f_.preference_destroy(preference);
    for (int i = 0; ok && i < n && i < kWanted; ++i) {
      if (found[i].state != lt::kSuccess || found[i].workspace_bytes > kLtWorkspaceBytes) continue;
      out = found[i].algo;
      return true;
    }
    return false;
  }
  bool run(void* handle, const lt::Algo& algo, const LtOperands& o, cudaStream_t stream) const {
    const float one = 1, zero = 0;
    return f_.matmul(handle, desc_, &one, o.w, w_, o.x, x_, &zero, o.out, out_, o.out, out_, &algo,
                     o.workspace, kLtWorkspaceBytes, stream) == lt::kSuccess;
  }

 private:
  const lt::Functions& f_;
  void *desc_ = nullptr, *w_ = nullptr, *x_ = nullptr, *out_ = nullptr;
  bool ok_ = false;
};

}  // namespace

const char* CublasLt::load() {
  const char* wanted = std::getenv(kSwitch);
  if (wanted != nullptr && std::strcmp(wanted, "0") == 0)
    return "cuBLASLt is switched off by MICA_CUDA_CUBLASLT=0";
  // Not to be unloaded: other devices and programs share it, and it has threads and exit handlers.
  constexpr int kFlags = RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE;
  if (wanted != nullptr && std::strchr(wanted, '/') != nullptr) {
    library_ = dlopen(wanted, kFlags);
  } else {
    for (const char* name : kLibraries) {
      library_ = dlopen(name, kFlags);
      if (library_ != nullptr) break;
    }
  }
  if (library_ == nullptr) return "libcublasLt.so.13 or .12 was not found";
  void* found[kFunctions];
  for (size_t i = 0; i < kFunctions; ++i) {
    found[i] = dlsym(library_, kNames[i]);
    if (found[i] == nullptr) return "libcublasLt lacks a function";
  }
  std::memcpy(&functions_, found, sizeof found);
  return nullptr;
}

const char* CublasLt::start() {
  driver_->set_device(device_);
  if (functions_.create(&handle_) == lt::kSuccess) return nullptr;
  handle_ = nullptr;
  driver_->get_last_error();
  return "cuBLASLt does not start on this device";
}

const char* CublasLt::open() {
  if (tried_) return why_;
  tried_ = true;
  why_ = load();
  if (why_ == nullptr) why_ = start();
  return why_;
}

const char* CublasLt::open_with(const lt::Functions& functions) {
  close();
  functions_ = functions;
  tried_ = true;
  return why_ = start();
}

const char* CublasLt::supports(const LtShape& shape) {
  if (const char* why = open(); why != nullptr) return why;
  driver_->set_device(device_);
  lt::Algo algo;
  return Problem(functions_, shape).choose(handle_, algo)
             ? nullptr
             : "cuBLASLt has no algorithm for this size";
}

bool CublasLt::multiply(const LtShape& shape, const LtOperands& operands, cudaStream_t stream) {
  if (handle_ == nullptr) return false;
  const Problem problem(functions_, shape);
  lt::Algo algo;
  return problem.choose(handle_, algo) && problem.run(handle_, algo, operands, stream);
}

void CublasLt::close() {
  if (handle_ != nullptr) functions_.destroy(handle_);
  if (library_ != nullptr) dlclose(library_);
  handle_ = library_ = nullptr;
  tried_ = false;
  why_ = nullptr;
}

}  // namespace mica::cuda
