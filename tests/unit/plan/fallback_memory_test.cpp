// What a fallback device takes beside buffers is part of the session's memory, as on its own
// device.
#include "tests/unit/base/borrowed_backend.h"
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

// ref that takes 1000 bytes a unit, and 50000 once.
const mica_backend* taking_backend() {
  static const mica_backend table = [] {
    mica_backend b = *mica_backend_ref();
    b.name = "taking";
    b.reserve = [](mica_b_device*, const mica_b_partition* p) {
      return p != nullptr ? uint64_t{1000} * p->n_units : uint64_t{50000};
    };
    return b;
  }();
  return &table;
}

TEST(FallbackMemoryTest, CountsWhatDriversTake) {
  const Context context = make_context();
  ASSERT_EQ(mica_context_add_backend(context.get(), borrowed_backend()), MICA_OK);
  ASSERT_EQ(mica_context_add_backend(context.get(), taking_backend()), MICA_OK);
  borrowed = {};
  borrowed.refused_op = "relu";
  const Device device = open_device(context, "borrowed");
  const Device ref = open_device(context, "ref"), taking = open_device(context, "taking");
  const Graph g = make_graph(context);
  const mica_tensor x = mica_relu(g.get(), input(g.get(), "x", {64}));
  const mica_tensor two = mica_relu(g.get(), mica_relu(g.get(), mica_silu(g.get(), x)));
  mica_output(g.get(), two, "y");
  const auto bytes = [&](const Device& fallback) {
    const Session session = make_session(device, nullptr, false, {fallback.get(), fallback.get()});
    mica_memory m{};
    EXPECT_NE(ready(context, session, g), nullptr);
    EXPECT_EQ(mica_session_memory(session.get(), &m), MICA_OK);
    return m.fallback_bytes;
  };
  // A device that is named twice counts once.
  EXPECT_EQ(bytes(taking), bytes(ref) + 3 * 1000 + 50000);
  borrowed.refused_op = "";
  EXPECT_EQ(bytes(taking), 0u);
}

}  // namespace
