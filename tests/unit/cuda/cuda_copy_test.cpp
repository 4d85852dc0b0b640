// Copies of packed weights on the CUDA backend: which rows go through the workspace, and where to.
#include "backends/cuda/quant/weight_type.h"
#include "tests/unit/cuda/cuda_world.h"

namespace {

using namespace mica;
using namespace mica::test;

class CudaCopy : public CudaBackend {
 protected:
  // The arguments of the kernels that a cast of weight "w" records: in turn those that unpack, and
  // those that decode, of which only the first is kept, the source.
  static std::vector<std::vector<char>> record(mica_dtype from, const Dims& dim, mica_dtype to) {
    const Context c = make();
    const Device d = open(c);
    mica_weights* raw = nullptr;
    EXPECT_EQ(mica_weights_create(d.get(), &raw), MICA_OK);
    const Weights w(raw);
    EXPECT_EQ(mica_weights_describe(raw, "w", from, static_cast<uint32_t>(dim.size()), dim.data()),
              MICA_OK);
    const mica_weight_source none = {
        nullptr,
        [](void*, uint32_t, uint64_t, uint64_t, void* staging, const void** out) {
          *out = staging;
          return MICA_OK;
        },
        nullptr};
    EXPECT_EQ(mica_weights_load_random(raw, &none, 1), MICA_OK) << mica_context_error(c.get());
    const Graph g = make_graph(c);
    mica_output(g.get(), mica_cast(g.get(), mica_weight(g.get(), raw, "w"), to), "y");
    std::vector<std::vector<char>> launches;
    fake.on_launch = [&](const void* args) {
      const auto* bytes = static_cast<const char*>(args);
      const size_t n = launches.size() % 2 == 0 ? sizeof(cuda::PackArgs) : sizeof(cuda::Tensor);
      if (fake.capturing) launches.emplace_back(bytes, bytes + n);
    };
    const Session s = make_session(d);
    EXPECT_NE(ready(c, s, g), nullptr);
    fake.on_launch = nullptr;
    return launches;
  }
  static cuda::PackArgs pack_args(const std::vector<char>& bytes) {
    cuda::PackArgs a;
    std::memcpy(&a, bytes.data(), sizeof a);
    return a;
  }
};

TEST_F(CudaCopy, OfTheSameTypeUnpacksInPlace) {
  const auto launches = record(MICA_Q4_K, {512, 20, 3}, MICA_Q4_K);
  ASSERT_EQ(launches.size(), 1u);
  const cuda::PackArgs a = pack_args(launches[0]);
  EXPECT_EQ(a.first, 0);
  EXPECT_EQ(a.n, 60);
  EXPECT_EQ(a.n_per_slice, 20);
  EXPECT_EQ(a.k, 512);
}

// 16 MiB of blocks at a time: of 4352 bytes a row, 3855 rows.
TEST_F(CudaCopy, ToFloatsGoesThroughTheWorkspacePieceByPiece) {
  const auto launches = record(MICA_Q8_0, {4096, 2001, 2}, MICA_F32);
  ASSERT_EQ(launches.size(), 4u);
  const cuda::PackArgs a = pack_args(launches[0]), b = pack_args(launches[2]);
  EXPECT_EQ(a.first, 0);
  EXPECT_EQ(a.n, 3855);
  EXPECT_EQ(b.first, 3855);
  EXPECT_EQ(b.n, 2 * 2001 - 3855);
  EXPECT_EQ(a.rows, b.rows);  // the workspace again
  EXPECT_EQ(a.n_per_slice, 2001);
  const auto source = [](const std::vector<char>& bytes) {
    cuda::Tensor x;
    std::memcpy(&x, bytes.data(), sizeof x);
    return x;
  };
  const cuda::Tensor x = source(launches[1]), y = source(launches[3]);
  EXPECT_EQ(x.address, reinterpret_cast<uint64_t>(a.rows));
  EXPECT_EQ(x.address, y.address);
  EXPECT_EQ(x.dim[1], a.n);
  EXPECT_EQ(y.dim[1], b.n);
  EXPECT_EQ(x.stride[1], 4352);
}

}  // namespace
