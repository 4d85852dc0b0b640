// cuBLASLt on the host's side: that the declarations of our own are its header's, how it is opened,
// and what it is asked to multiply. A library of the test's own computes the product.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <string>
#include <vector>

#include "backends/cuda/cublaslt.h"
#include "ops/dtypes/half.h"
#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#endif

namespace {

using mica::bf16_to_f32;
using mica::f16_to_f32;
using mica::f32_to_bf16;
using mica::f32_to_f16;
using mica::cuda::CublasLt;
using mica::cuda::Driver;
using mica::cuda::kLtWorkspaceBytes;
using mica::cuda::LtOperands;
using mica::cuda::LtShape;
namespace lt = mica::cuda::lt;

#if __has_include(<cublasLt.h>)
static_assert(CUBLAS_STATUS_SUCCESS == lt::kSuccess && CUBLAS_COMPUTE_32F == lt::kCompute32F &&
              CUBLAS_OP_T == lt::kTransposed && CUDA_R_32F == lt::kR32F &&
              CUDA_R_16F == lt::kR16F && CUDA_R_16BF == lt::kR16BF);
static_assert(CUBLASLT_MATMUL_DESC_TRANSA == lt::kDescTransA &&
              CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES == lt::kPrefWorkspace &&
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES == lt::kPrefAlignA &&
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES == lt::kPrefAlignB &&
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES == lt::kPrefAlignC &&
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES == lt::kPrefAlignD);
static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(lt::Algo) &&
              sizeof(cublasLtMatmulHeuristicResult_t) == sizeof(lt::Heuristic) &&
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize) ==
                  offsetof(lt::Heuristic, workspace_bytes) &&
              offsetof(cublasLtMatmulHeuristicResult_t, state) == offsetof(lt::Heuristic, state) &&
              sizeof(cublasStatus_t) == sizeof(lt::Status));
#endif

struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t ld;
};
struct Library {
  int n_handles = 0, n_descriptors = 0, n_products = 0;
  bool refuses = false, has_algorithm = true;
};
Library library;

template <class T>
lt::Status make(void** out, const T& value) {
  *out = new T(value);
  ++library.n_descriptors;
  return lt::kSuccess;
}
template <class T>
lt::Status drop(void* p) {
  delete static_cast<T*>(p);
  --library.n_descriptors;
  return lt::kSuccess;
}

lt::Status find_algorithms(void*, void* desc, void*, void*, void*, void*, void*, int n_wanted,
                           lt::Heuristic* out, int* out_n) {
  EXPECT_EQ(*static_cast<int*>(desc), lt::kTransposed);
  EXPECT_GE(n_wanted, 3);
  out[0].state = 15;  // not supported
  out[1].state = lt::kSuccess, out[1].workspace_bytes = kLtWorkspaceBytes + 1;
  out[2].state = lt::kSuccess, out[2].workspace_bytes = kLtWorkspaceBytes, out[2].algo.data[0] = 77;
  *out_n = library.has_algorithm ? 3 : 2;
  return lt::kSuccess;
}

// out^T = w^T x, in columns.
lt::Status multiply(void*, void*, const void* alpha, const void* w_data, void* w_layout,
                    const void* x_data, void* x_layout, const void* beta, const void*, void*,
                    void* out_data, void* out_layout, const lt::Algo* algo, void*,
                    size_t workspace_bytes, cudaStream_t) {
  const auto &w = *static_cast<Layout*>(w_layout), &x = *static_cast<Layout*>(x_layout),
             &out = *static_cast<Layout*>(out_layout);
  EXPECT_EQ(algo->data[0], 77u);
  EXPECT_EQ(workspace_bytes, kLtWorkspaceBytes);
  EXPECT_EQ(*static_cast<const float*>(alpha), 1);
  EXPECT_EQ(*static_cast<const float*>(beta), 0);
  EXPECT_EQ(w.rows, x.rows);
  EXPECT_EQ(out.rows, w.columns);
  EXPECT_EQ(out.columns, x.columns);
  EXPECT_EQ(out.type, lt::kR32F);
  EXPECT_EQ(w.type, x.type);
  const auto value = [&](const void* data, const Layout& l, uint64_t row, uint64_t column) {
    const uint16_t bits =
        static_cast<const uint16_t*>(data)[column * static_cast<uint64_t>(l.ld) + row];
    return l.type == lt::kR16BF ? bf16_to_f32(bits) : f16_to_f32(bits);
  };
  for (uint64_t m = 0; m < x.columns; ++m)
    for (uint64_t n = 0; n < w.columns; ++n) {
      float sum = 0;
      for (uint64_t k = 0; k < w.rows; ++k) sum += value(w_data, w, k, n) * value(x_data, x, k, m);
      static_cast<float*>(out_data)[m * static_cast<uint64_t>(out.ld) + n] = sum;
    }
  ++library.n_products;
  return lt::kSuccess;
}

lt::Functions functions() {
  lt::Functions f = {};
  f.create = [](void** out) {
    if (library.refuses) return 1;
    ++library.n_handles;
    *out = &library;
    return lt::kSuccess;
  };
  f.destroy = [](void*) { return --library.n_handles, lt::kSuccess; };
  f.desc_create = [](void** out, int compute, int scale) {
    EXPECT_EQ(compute, lt::kCompute32F);
    EXPECT_EQ(scale, lt::kR32F);
    return make(out, 0);
  };
  f.desc_destroy = drop<int>;
  f.desc_set = [](void* desc, int attribute, const void* value, size_t bytes) {
    EXPECT_EQ(attribute, lt::kDescTransA);
    EXPECT_EQ(bytes, 4u);
    *static_cast<int*>(desc) = *static_cast<const int*>(value);
    return lt::kSuccess;
  };
  f.layout_create = [](void** out, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    return make(out, Layout{type, rows, columns, ld});
  };
  f.layout_destroy = drop<Layout>;
  f.preference_create = [](void** out) { return make(out, 0); };
  f.preference_destroy = drop<int>;
  f.preference_set = [](void*, int attribute, const void*, size_t bytes) {
    EXPECT_EQ(bytes, attribute == lt::kPrefWorkspace ? 8u : 4u);
    return lt::kSuccess;
  };
  f.heuristic = find_algorithms;
  f.matmul = multiply;
  return f;
}

const Driver& driver() {
  static Driver d = {};
  d.set_device = [](int) { return cudaSuccess; };
  d.get_last_error = [] { return cudaSuccess; };
  return d;
}

class CublasLtTest : public testing::Test {
 protected:
  CublasLtTest() {
    library = {};
    lt_.attach(driver(), 0);
  }
  ~CublasLtTest() override {
    unsetenv("MICA_CUDA_CUBLASLT");
    lt_.close();
    EXPECT_EQ(library.n_handles, 0);
    EXPECT_EQ(library.n_descriptors, 0);
  }
  std::string why(const LtShape& shape) {
    const char* text = lt_.supports(shape);
    return text != nullptr ? text : "";
  }
  CublasLt lt_;
};

constexpr LtShape kShape = {3, 2, 4, 4, 8, 5, false};

TEST_F(CublasLtTest, SwitchedOffOrAbsentSaysWhy) {
  setenv("MICA_CUDA_CUBLASLT", "0", 1);
  EXPECT_EQ(why(kShape), "cuBLASLt is switched off by MICA_CUDA_CUBLASLT=0");
  lt_.close();
  setenv("MICA_CUDA_CUBLASLT", "/nowhere/libcublasLt.so.13", 1);
  EXPECT_EQ(why(kShape), "libcublasLt.so.13 or .12 was not found");
  EXPECT_FALSE(lt_.multiply(kShape, {}, nullptr));
}

TEST_F(CublasLtTest, RefusalsSayWhy) {
  library.refuses = true;
  EXPECT_NE(lt_.open_with(functions()), nullptr);
  EXPECT_EQ(why(kShape), "cuBLASLt does not start on this device");
  EXPECT_FALSE(lt_.multiply(kShape, {}, nullptr));
  library.refuses = false;
  EXPECT_EQ(lt_.open_with(functions()), nullptr);
  library.has_algorithm = false;
  EXPECT_EQ(why(kShape), "cuBLASLt has no algorithm for this size");
  EXPECT_FALSE(lt_.multiply(kShape, {}, nullptr));
}

TEST_F(CublasLtTest, MultipliesRowsWithTheirStrides) {
  ASSERT_EQ(lt_.open_with(functions()), nullptr);
  for (const bool bf16 : {false, true}) {
    LtShape shape = kShape;
    shape.bf16 = bf16;
    EXPECT_EQ(why(shape), "");
    const auto bits = [&](float v) { return bf16 ? f32_to_bf16(v) : f32_to_f16(v); };
    std::vector<uint16_t> w, x;
    for (int i = 0; i < 12; ++i) w.push_back(bits(static_cast<float>(i - 5)));
    for (int i = 0; i < 16; ++i) x.push_back(bits(static_cast<float>(i % 8 < 4 ? i + 1 : 1000)));
    std::vector<float> out(10, -1);
    ASSERT_TRUE(lt_.multiply(shape, {w.data(), x.data(), out.data(), nullptr}, nullptr));
    for (int m = 0; m < 2; ++m)
      for (int n = 0; n < 5; ++n) {
        float want = n < 3 ? 0.0f : -1.0f;  // beyond the rows of w nothing is written
        for (int k = 0; k < 4 && n < 3; ++k)
          want += static_cast<float>((n * 4 + k - 5) * (m * 8 + k + 1));
        EXPECT_EQ(out[static_cast<size_t>(m * 5 + n)], want) << m << " " << n;
      }
  }
  EXPECT_EQ(library.n_products, 2);
}

}  // namespace
