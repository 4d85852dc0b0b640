// Products and quotients of any two floats on llvmpipe: subnormal, huge and not finite ones too.
#include <bit>
#include <cmath>
#include <random>

#include "mica/device.h"
#include "tests/unit/world.h"

namespace mica::test {
namespace {

// Places apart among all floats in order; NaN is NaN.
uint32_t distance(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b) ? 0 : UINT32_MAX;
  const auto place = [](float x) {
    const auto u = std::bit_cast<uint32_t>(x);
    return static_cast<int64_t>(u & 0x7fffffffu) * ((u >> 31) != 0 ? -1 : 1);
  };
  return static_cast<uint32_t>(std::llabs(place(a) - place(b)));
}

TEST(VulkanElementwise, MultipliesAndDividesAnyFloats) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers see llvmpipe's compiler and threads more than mica";
#endif
  constexpr size_t kN = 20000;
  mica_context* c = nullptr;
  ASSERT_EQ(mica_context_create(nullptr, &c), MICA_OK);
  const Context context(c);
  ASSERT_EQ(mica_context_add_backend(c, mica_backend_vulkan()), MICA_OK);
  mica_device* raw = nullptr;
  if (mica_device_open(c, "vulkan:llvmpipe", &raw) != MICA_OK)
    GTEST_SKIP() << mica_context_error(c);
  const Device device(raw);
  const Graph g = make_graph(context);
  const mica_tensor a = input(g.get(), "a", {kN}), b = input(g.get(), "b", {kN});
  mica_output(g.get(), mica_mul(g.get(), a, b), "product");
  mica_output(g.get(), mica_div(g.get(), a, b), "quotient");
  const Session session = make_session(device);
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  std::mt19937 rng(7);
  const uint32_t odd[] = {0,           0x80000000u, 1,           0x007fffffu, 0x00800000u,
                          0x7f7fffffu, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7e800001u};
  const auto any = [&] {
    const auto bits = static_cast<uint32_t>(rng());
    if (bits % 4 == 0) return std::bit_cast<float>(odd[rng() % 10]);
    if (bits % 4 == 1) return std::bit_cast<float>(static_cast<uint32_t>(rng()) & 0x80ffffffu);
    return std::bit_cast<float>(static_cast<uint32_t>(rng()));
  };
  std::vector<float> x(kN), y(kN);
  for (size_t i = 0; i < kN; ++i) x[i] = any(), y[i] = any();
  set(session, "a", x);
  set(session, "b", y);
  ASSERT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(c);
  const std::vector<float> product = read(plan, "product", kN),
                           quotient = read(plan, "quotient", kN);
  for (size_t i = 0; i < kN; ++i) {
    ASSERT_LE(distance(product[i], x[i] * y[i]), 1u) << x[i] << " * " << y[i] << " " << product[i];
    ASSERT_LE(distance(quotient[i], x[i] / y[i]), 1u)
        << x[i] << " / " << y[i] << " " << quotient[i];
  }
}

}  // namespace
}  // namespace mica::test
