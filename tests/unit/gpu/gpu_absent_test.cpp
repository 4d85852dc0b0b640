// Backends that a build leaves out: no devices, a sentence, and everything else goes on.
#include "backends/gpu/absent.h"
#include "tests/unit/world.h"

namespace {

using namespace mica;
using namespace mica::test;

TEST(GpuAbsent, SaysWhyThereIsNoDevice) {
  static constexpr mica_backend kTable =
      gpu::absent_backend("warp", [](const mica_host* host, const char*, mica_b_device** out) {
        return gpu::refuse_absent(host, out, "Warp", "build it with -DMICA_WARP=ON");
      });
  Context context = make_context();
  ASSERT_EQ(mica_context_add_backend(context.get(), &kTable), MICA_OK);
  uint32_t n = 0, n_before = 0;
  ASSERT_EQ(mica_device_count(make_context().get(), &n_before), MICA_OK);
  ASSERT_EQ(mica_device_count(context.get(), &n), MICA_OK);
  EXPECT_EQ(n, n_before);
  for (const char* name : {"warp", "warp:", "warp:1"}) {
    mica_device* d = nullptr;
    EXPECT_EQ(mica_device_open(context.get(), name, &d), MICA_NO_DEVICE);
    EXPECT_EQ(d, nullptr);
    EXPECT_STREQ(mica_context_error(context.get()),
                 "this mica was built without Warp; build it with -DMICA_WARP=ON");
  }
  EXPECT_NE(open_device(context, "cpu:plain"), nullptr);
}

// Whatever this build and this machine have: the backends can be listed and asked for.
TEST(GpuAbsent, BackendsAreAlwaysThere) {
  Context context = make_context();
  for (const mica_backend* b : {mica_backend_cuda(), mica_backend_vulkan()}) {
    ASSERT_NE(b, nullptr);
    ASSERT_EQ(mica_context_add_backend(context.get(), b), MICA_OK);
    mica_device* d = nullptr;
    const mica_status status = mica_device_open(context.get(), b->name, &d);
    EXPECT_TRUE(status == MICA_OK || status == MICA_NO_DEVICE) << mica_context_error(context.get());
    if (status != MICA_OK) {
      EXPECT_STRNE(mica_context_error(context.get()), "");
    }
    mica_device_release(d);
  }
}

}  // namespace
