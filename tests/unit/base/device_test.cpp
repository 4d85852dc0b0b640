// Backends and devices by name, plug-ins by path, and the sentences when there is none.
#include <cstdlib>
#include <fstream>

#include "mica/backend.h"
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

const mica_backend* built_for_another_abi() {
  static const mica_backend backend = [] {
    mica_backend b = *mica_backend_ref();
    b.abi = MICA_BACKEND_ABI + 1;
    b.name = "later";
    return b;
  }();
  return &backend;
}

class DeviceTest : public testing::Test {
 protected:
  mica_status open(const char* name) {
    mica_device* d = nullptr;
    const mica_status status = mica_device_open(context.get(), name, &d);
    EXPECT_EQ(d != nullptr, status == MICA_OK);
    mica_device_release(d);
    return status;
  }
  std::string error() const { return mica_context_error(context.get()); }
  Context context = make_context();
};

TEST_F(DeviceTest, OpensByName) {
  for (const char* name :
       {"ref", "ref:", "ref:q8_32", "ref:f32,bound", "ref:f64,rest", "cpu", "cpu:plain"})
    EXPECT_EQ(open(name), MICA_OK) << name << ": " << error();
}

TEST_F(DeviceTest, UnknownBackendsListThoseThereAre) {
  for (const char* name : {"cuda", "cuda:1", "", ":", "re", "reff", "CPU"}) {
    EXPECT_EQ(open(name), MICA_NOT_FOUND) << name;
    EXPECT_TRUE(has(error(), "there are: ref, cpu")) << error();
  }
  mica_context* c = nullptr;
  ASSERT_EQ(mica_context_create(nullptr, &c), MICA_OK);
  const Context empty(c);
  mica_device* d = nullptr;
  EXPECT_EQ(mica_device_open(c, "cpu", &d), MICA_NOT_FOUND);
  EXPECT_TRUE(has(mica_context_error(c), "there are: none"));
}

TEST_F(DeviceTest, UnknownOptionsListThoseThereAre) {
  EXPECT_EQ(open("cpu:sse9"), MICA_NOT_FOUND);
  EXPECT_TRUE(has(error(), "'sse9'") && has(error(), "avx2")) << error();
  for (const char* name : {"ref:f99", "ref:f32x", "ref:f32,", "ref:,bound,"}) {
    EXPECT_EQ(open(name), MICA_NOT_FOUND) << name;
    EXPECT_TRUE(has(error(), "q8_256")) << error();
  }
  EXPECT_EQ(open(("ref:" + std::string(1000, 'x')).c_str()), MICA_NOT_FOUND);
  EXPECT_FALSE(error().empty());
}

TEST_F(DeviceTest, NullIsNeverFatal) {
  EXPECT_EQ(open(nullptr), MICA_INVALID_ARGUMENT);
  mica_device* d = nullptr;
  EXPECT_EQ(mica_device_open(nullptr, "cpu", &d), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_device_open(context.get(), "cpu", nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_context_add_backend(nullptr, mica_backend_ref()), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_context_add_backend(context.get(), nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_context_load_backend(context.get(), nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_context_load_backend(context.get(), ""), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_device_count(nullptr, nullptr), MICA_INVALID_ARGUMENT);
  mica_device_info info;
  EXPECT_EQ(mica_device_get_info(nullptr, &info), MICA_INVALID_ARGUMENT);
  mica_device_release(nullptr);
}

TEST_F(DeviceTest, BackendsAreAddedOnceAndFitTheVersion) {
  EXPECT_EQ(mica_context_add_backend(context.get(), mica_backend_ref()), MICA_INVALID_ARGUMENT);
  EXPECT_TRUE(has(error(), "'ref' is already there")) << error();
  EXPECT_EQ(mica_context_add_backend(context.get(), built_for_another_abi()),
            MICA_INVALID_ARGUMENT);
  EXPECT_TRUE(has(error(), "version " + std::to_string(MICA_BACKEND_ABI + 1))) << error();
}

// Functions that a backend must have are looked for when it is added, not met as NULL later.
TEST_F(DeviceTest, ABackendWithoutARequiredFunctionIsRefused) {
  static mica_backend table;
  const auto refused = [&](const char* name, auto mica_backend::*entry) {
    table = *mica_backend_ref();
    table.name = "holed";
    table.*entry = nullptr;
    EXPECT_EQ(mica_context_add_backend(context.get(), &table), MICA_INVALID_ARGUMENT) << name;
    EXPECT_EQ(error(), "backend 'holed' has no function " + std::string(name));
  };
#define REFUSED(entry) refused(#entry, &mica_backend::entry)
  REFUSED(device_count);
  REFUSED(device_info);
  REFUSED(device_open);
  REFUSED(device_close);
  REFUSED(device_state);
  REFUSED(buffer_create);
  REFUSED(buffer_free);
  REFUSED(buffer_write);
  REFUSED(buffer_read);
  REFUSED(buffer_copy);
  REFUSED(weight_layout);
  REFUSED(weight_pack);
  REFUSED(weight_unpack);
  REFUSED(kv_layout);
  REFUSED(supports);
  REFUSED(claims);
  REFUSED(query);
  REFUSED(compile);
  REFUSED(submit);
  REFUSED(wait);
  REFUSED(plan_release);
#undef REFUSED
  for (const char* name : {static_cast<const char*>(nullptr), "", "a:b"}) {
    table = *mica_backend_ref();
    table.name = name;
    EXPECT_EQ(mica_context_add_backend(context.get(), &table), MICA_INVALID_ARGUMENT);
    EXPECT_TRUE(has(error(), "name")) << error();
  }
  table = *mica_backend_ref();
  table.name = "least";
  table.buffer_map = nullptr;
  table.buffer_import = nullptr;
  table.kv_pack = nullptr;
  table.kv_unpack = nullptr;
  table.weight_random = nullptr;
  table.args_bytes = nullptr;
  table.value_layout = nullptr;
  table.reserve = nullptr;
  EXPECT_EQ(mica_context_add_backend(context.get(), &table), MICA_OK) << error();
  EXPECT_EQ(open("least"), MICA_OK) << error();
}

TEST_F(DeviceTest, ListsDevices) {
  uint32_t n = 0;
  ASSERT_EQ(mica_device_count(context.get(), &n), MICA_OK);
  ASSERT_EQ(n, 2u);
  mica_device_info info;
  ASSERT_EQ(mica_device_describe(context.get(), 0, &info), MICA_OK);
  EXPECT_STREQ(info.backend, "ref");
  ASSERT_EQ(mica_device_describe(context.get(), 1, &info), MICA_OK);
  EXPECT_STREQ(info.backend, "cpu");
  EXPECT_TRUE(has(info.options, "plain")) << info.options;
  EXPECT_GT(info.memory_bytes, 0u);
  EXPECT_EQ(mica_device_describe(context.get(), 2, &info), MICA_INVALID_ARGUMENT);
  const Device device = open_device(context, "ref");
  ASSERT_EQ(mica_device_get_info(device.get(), &info), MICA_OK);
  EXPECT_STREQ(info.backend, "ref");
}

// An option is never taken for another instruction set than the one asked for.
TEST_F(DeviceTest, EveryListedOptionOpens) {
  mica_device_info info;
  ASSERT_EQ(mica_device_describe(context.get(), 1, &info), MICA_OK);
  std::string options = info.options;
  for (size_t at = 0; at < options.size();) {
    const size_t end = std::min(options.find(',', at), options.size());
    const std::string name = "cpu:" + options.substr(at, end - at);
    EXPECT_EQ(open(name.c_str()), MICA_OK) << name;
    at = end + 1;
  }
}

TEST_F(DeviceTest, FilesThatAreNoPlugInsAreRefused) {
  EXPECT_EQ(mica_context_load_backend(context.get(), "/nonexistent/x.so"), MICA_NOT_FOUND);
  EXPECT_TRUE(has(error(), "cannot load the plug-in")) << error();
  EXPECT_EQ(mica_context_load_backend(context.get(), "no_such_file.so"), MICA_NOT_FOUND);
  EXPECT_EQ(mica_context_load_backend(context.get(), "/"), MICA_NOT_FOUND);
  // Only the given path counts: the system's libraries are not searched.
  EXPECT_EQ(mica_context_load_backend(context.get(), "libm.so.6"), MICA_NOT_FOUND);
  const std::string longer(5000, 'x');
  EXPECT_NE(mica_context_load_backend(context.get(), longer.c_str()), MICA_OK);
  const std::string path = testing::TempDir() + "mica_not_a_plug_in.so";
  std::ofstream(path) << "text";
  EXPECT_EQ(mica_context_load_backend(context.get(), path.c_str()), MICA_NOT_FOUND);
  std::remove(path.c_str());
}

#ifdef MICA_PLUGIN_DIR
TEST(PlugIns, AreLoadedByPathAndRun) {
  mica_context* c = nullptr;
  ASSERT_EQ(mica_context_create(nullptr, &c), MICA_OK);
  const Context context(c);
  const std::string folder = MICA_PLUGIN_DIR;
  ASSERT_EQ(mica_context_load_backend(c, (folder + "/libmica_backend_ref.so").c_str()), MICA_OK)
      << mica_context_error(c);
  EXPECT_EQ(mica_context_load_backend(c, (folder + "/libmica_backend_ref.so").c_str()),
            MICA_INVALID_ARGUMENT);  // the name is taken
  ASSERT_EQ(mica_context_load_backend(c, (folder + "/libmica_backend_template.so").c_str()),
            MICA_OK);
  const Device device = open_device(context, "ref");
  const Graph g = make_graph(context);
  mica_output(g.get(), mica_relu(g.get(), input(g.get(), "x", {3})), "y");
  const Session session = make_session(device);
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  set<float>(session, "x", {-1, 0, 2});
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_EQ(read(plan, "y", 3), (std::vector<float>{0, 0, 2}));

  const Device skeleton = open_device(context, "template");
  const Session nothing = make_session(skeleton);
  mica_graph* const graphs[] = {g.get()};
  EXPECT_EQ(mica_session_compile(nothing.get(), 1, graphs, &plan), MICA_UNSUPPORTED);
  EXPECT_STREQ(mica_context_error(c), "relu: template cannot run it: the template runs nothing");
}
#endif

}  // namespace
