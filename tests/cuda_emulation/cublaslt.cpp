// What the backend calls of cuBLASLt, for the emulated device: this module is opened in its place
// (machine.cpp). Products wait in the order of the launches; one algorithm does for all sizes.
#include "backends/cuda/cublaslt.h"

#include <memory>
#include <vector>

#include "ops/dtypes/half.h"
#include "tests/cuda_emulation/machine.h"

#define MICA_EMULATED extern "C" __attribute__((visibility("default"))) lt::Status

namespace {

namespace lt = mica::cuda::lt;

// A matrix by columns, as the library sees it.
struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t ld;
};

std::vector<double> values_of(const void* data, const Layout& l) {
  const auto* from = static_cast<const uint16_t*>(data);
  std::vector<double> out(l.rows * l.columns);
  for (uint64_t c = 0; c < l.columns; ++c)
    for (uint64_t r = 0; r < l.rows; ++r) {
      const uint16_t bits = from[c * static_cast<uint64_t>(l.ld) + r];
      const float value = l.type == lt::kR16BF ? mica::bf16_to_f32(bits) : mica::f16_to_f32(bits);
      out[c * l.rows + r] = static_cast<double>(value);
    }
  return out;
}

// out = w^T x; sums in double, as those of the emulated tensor cores are.
void multiply(const void* w_data, const Layout& w, const void* x_data, const Layout& x,
              float* out_data, const Layout& out) {
  const std::vector<double> ws = values_of(w_data, w), xs = values_of(x_data, x);
  for (uint64_t m = 0; m < x.columns; ++m)
    for (uint64_t n = 0; n < w.columns; ++n) {
      const double *a = &ws[n * w.rows], *b = &xs[m * x.rows];
      double sum = 0;
      for (uint64_t k = 0; k < w.rows; ++k) sum += a[k] * b[k];
      out_data[m * static_cast<uint64_t>(out.ld) + n] = static_cast<float>(sum);
    }
}

template <class T>
lt::Status make(void** out, const T& value) {
  *out = new T(value);
  return lt::kSuccess;
}
template <class T>
lt::Status drop(void* p) {
  delete static_cast<T*>(p);
  return lt::kSuccess;
}

}  // namespace

MICA_EMULATED cublasLtCreate(void** out) { return make(out, 0); }
MICA_EMULATED cublasLtDestroy(void* handle) { return drop<int>(handle); }
MICA_EMULATED cublasLtMatmulDescCreate(void** out, int, int) { return make(out, 0); }
MICA_EMULATED cublasLtMatmulDescDestroy(void* desc) { return drop<int>(desc); }
MICA_EMULATED cublasLtMatmulDescSetAttribute(void*, int, const void*, size_t) {
  return lt::kSuccess;
}
MICA_EMULATED cublasLtMatrixLayoutCreate(void** out, int type, uint64_t rows, uint64_t columns,
                                         int64_t ld) {
  return make(out, Layout{type, rows, columns, ld});
}
MICA_EMULATED cublasLtMatrixLayoutDestroy(void* layout) { return drop<Layout>(layout); }
MICA_EMULATED cublasLtMatmulPreferenceCreate(void** out) { return make(out, 0); }
MICA_EMULATED cublasLtMatmulPreferenceDestroy(void* p) { return drop<int>(p); }
MICA_EMULATED cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) {
  return lt::kSuccess;
}
MICA_EMULATED cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int,
                                             lt::Heuristic* out, int* out_n) {
  out[0] = {};
  *out_n = 1;
  return lt::kSuccess;
}
MICA_EMULATED cublasLtMatmul(void*, void*, const void*, const void* w, void* w_layout,
                             const void* x, void* x_layout, const void*, const void*, void*,
                             void* out, void* out_layout, const lt::Algo*, void*, size_t,
                             cudaStream_t) {
  const Layout wl = *static_cast<Layout*>(w_layout), xl = *static_cast<Layout*>(x_layout),
               ol = *static_cast<Layout*>(out_layout);
  emu::put_work([=] { multiply(w, wl, x, xl, static_cast<float*>(out), ol); });
  return lt::kSuccess;
}
