// The file of compiled pipelines: damage, other drivers, writers at the same time, folders that
// cannot be written. Nothing of it is more than a lost cache.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "backends/vulkan/cache_file.h"
#include "backends/vulkan/pipelines.h"
#include "core/base/vec.h"
#include "mica/device.h"
#include "tests/unit/world.h"

namespace mica::test {
namespace {

namespace fs = std::filesystem;
using vulkan::CacheKey;

class VulkanCache : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/mica-vulkan-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    unsetenv("MICA_VULKAN_CACHE");
    fs::remove_all(folder_);
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> list;
    for (const auto& e : fs::directory_iterator(folder_)) list.push_back(e.path());
    return list;
  }
  static std::string content(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(file)), {});
  }
  static void put(const fs::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary)
        .write(text.data(), static_cast<std::streamsize>(text.size()));
  }
  static bool write(const std::string& folder, const CacheKey& key, const std::string& data) {
    return vulkan::write_cache(folder.c_str(), key, data.data(), data.size());
  }
  // What is read; "" with `ok` false.
  static std::string read_back(const std::string& folder, const CacheKey& key, bool& ok) {
    Vec<char> data(default_allocator());
    ok = vulkan::read_cache(folder.c_str(), key, data);
    return std::string(data.data() != nullptr ? data.data() : "", data.size());
  }
  static CacheKey key_of(uint32_t driver, uint8_t uuid) {
    CacheKey key{};
    key.vendor = 1, key.device = 2, key.driver = driver;
    key.uuid[3] = uuid;
    return key;
  }

  std::string folder_;
};

TEST_F(VulkanCache, IsReadAsItWasWritten) {
  bool ok = true;
  EXPECT_EQ(read_back(folder_, key_of(3, 4), ok), "");
  EXPECT_FALSE(ok);
  for (const std::string& data :
       {std::string("pipelines"), std::string(), std::string(70000, 'x')}) {
    EXPECT_TRUE(write(folder_, key_of(3, 4), data));
    EXPECT_EQ(read_back(folder_, key_of(3, 4), ok), data);
    EXPECT_TRUE(ok);
  }
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(VulkanCache, DamageIsFoundByteByByte) {
  const CacheKey key = key_of(3, 4);
  ASSERT_TRUE(write(folder_, key, "what a driver compiled"));
  const fs::path file = files().at(0);
  const std::string whole = content(file);
  bool ok = true;
  for (size_t n = 0; n < whole.size(); ++n) {
    put(file, whole.substr(0, n));
    EXPECT_EQ(read_back(folder_, key, ok), "");
    EXPECT_FALSE(ok) << n << " bytes";
  }
  int n_passed = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x40);
    put(file, flipped);
    (void)read_back(folder_, key, ok);
    n_passed += ok ? 1 : 0;
  }
  EXPECT_EQ(n_passed, 4);  // the header's four bytes that mean nothing
  put(file, whole + "x");
  (void)read_back(folder_, key, ok);
  EXPECT_FALSE(ok);
  put(file, whole);
  EXPECT_EQ(read_back(folder_, key, ok), "what a driver compiled");
}

TEST_F(VulkanCache, AnotherDriversFileIsNotRead) {
  ASSERT_TRUE(write(folder_, key_of(3, 4), "of driver 3"));
  bool ok = true;
  for (const CacheKey& other : {key_of(5, 4), key_of(3, 6)}) {
    EXPECT_EQ(read_back(folder_, other, ok), "");
    EXPECT_FALSE(ok);
  }
  ASSERT_TRUE(write(folder_, key_of(5, 4), "of driver 5"));
  EXPECT_EQ(read_back(folder_, key_of(5, 4), ok), "of driver 5");
}

TEST_F(VulkanCache, WritersAtTheSameTimeLeaveOneWholeFile) {
  const CacheKey key = key_of(3, 4);
  const auto text = [](int t) { return std::string(20000, static_cast<char>('a' + t)); };
  ASSERT_TRUE(write(folder_, key, text(0)));
  std::atomic<int> n_bad = 0, n_written = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        n_written += write(folder_, key, text(t)) ? 1 : 0;
        bool ok = false;
        const std::string back = read_back(folder_, key, ok);
        n_bad += ok && back.size() == 20000 && back == text(back[0] - 'a') ? 0 : 1;
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(n_bad, 0);
  EXPECT_EQ(n_written, 200);
  EXPECT_EQ(files().size(), 1u) << "temporary files are left";
}

TEST_F(VulkanCache, FoldersThatCannotBeAreNoHarm) {
  const CacheKey key = key_of(3, 4);
  EXPECT_TRUE(write(folder_ + "/new", key, "x"));  // made
  EXPECT_FALSE(write(folder_ + "/no/such", key, "x"));
  put(folder_ + "/file", "x");
  EXPECT_FALSE(write(folder_ + "/file", key, "x"));
  EXPECT_FALSE(write("/proc", key, "x"));
  EXPECT_FALSE(write(std::string(2000, 'x'), key, "x"));
  bool ok = true;
  (void)read_back(folder_ + "/file", key, ok);
  EXPECT_FALSE(ok);
}

// A driver whose caches hold the first word of each module compiled with them.
struct CachingDriver {
  using Words = std::set<uint32_t>;
  static Words& of(VkPipelineCache c) { return *reinterpret_cast<Words*>(c); }

  static vulkan::Api api() {
    vulkan::Api a{};
    a.vkCreatePipelineLayout = [](auto...) { return VK_SUCCESS; };
    a.vkDestroyPipelineLayout = [](auto...) {};
    a.vkCreatePipelineCache = [](VkDevice, const VkPipelineCacheCreateInfo* info, auto,
                                 VkPipelineCache* out) {
      const auto* words = static_cast<const uint32_t*>(info->pInitialData);
      *out = reinterpret_cast<VkPipelineCache>(
          new Words(words, words + info->initialDataSize / sizeof *words));
      return VK_SUCCESS;
    };
    a.vkDestroyPipelineCache = [](VkDevice, VkPipelineCache c, auto) { delete &of(c); };
    a.vkMergePipelineCaches = [](VkDevice, VkPipelineCache to, uint32_t n,
                                 const VkPipelineCache* from) {
      for (uint32_t i = 0; i < n; ++i) of(to).insert(of(from[i]).begin(), of(from[i]).end());
      return VK_SUCCESS;
    };
    a.vkGetPipelineCacheData = [](VkDevice, VkPipelineCache c, size_t* bytes, void* data) {
      const std::vector<uint32_t> words(of(c).begin(), of(c).end());
      *bytes = words.size() * sizeof words[0];
      if (data != nullptr) std::memcpy(data, words.data(), *bytes);
      return VK_SUCCESS;
    };
    a.vkCreateShaderModule = [](VkDevice, const VkShaderModuleCreateInfo* info, auto,
                                VkShaderModule* out) {
      *out = reinterpret_cast<VkShaderModule>(uint64_t{*info->pCode});
      return VK_SUCCESS;
    };
    a.vkDestroyShaderModule = [](auto...) {};
    a.vkCreateComputePipelines = [](VkDevice, VkPipelineCache c, uint32_t,
                                    const VkComputePipelineCreateInfo* info, auto, VkPipeline*) {
      of(c).insert(static_cast<uint32_t>(reinterpret_cast<uint64_t>(info->stage.module)));
      return VK_SUCCESS;
    };
    a.vkDestroyPipeline = [](auto...) {};
    return a;
  }
};

TEST_F(VulkanCache, DevicesOfOneFileKeepEachOthersPipelines) {
  const vulkan::Api api = CachingDriver::api();
  const uint32_t words[] = {7, 8, 9};
  vulkan::Pipelines devices[] = {vulkan::Pipelines(default_allocator()),
                                 vulkan::Pipelines(default_allocator()),
                                 vulkan::Pipelines(default_allocator())};
  Error error;
  for (vulkan::Pipelines& p : devices)
    ASSERT_EQ(p.open(api, VK_NULL_HANDLE, folder_.c_str(), key_of(3, 4), error), MICA_OK);
  for (int i : {0, 1, 2}) {
    const vulkan::Shader shader = {"x", &words[i], 1};
    vulkan::Dispatch d{};
    d.shader = &shader;
    VkPipeline pipeline = VK_NULL_HANDLE;
    ASSERT_EQ(devices[i].find(d, pipeline, error), MICA_OK);
  }
  for (int i : {1, 0, 2}) devices[i].close();
  bool ok = false;
  const std::string data = read_back(folder_, key_of(3, 4), ok);
  ASSERT_TRUE(ok);
  EXPECT_EQ(data, std::string(reinterpret_cast<const char*>(words), sizeof words));
}

// The whole way, on llvmpipe: y = x * x + x with whatever lies in the folder.
TEST_F(VulkanCache, DevicesRunWithAnyFile) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers see llvmpipe's compiler and threads more than mica";
#endif
  mica_context* c = nullptr;
  ASSERT_EQ(mica_context_create(nullptr, &c), MICA_OK);
  const Context context(c);
  ASSERT_EQ(mica_context_add_backend(c, mica_backend_vulkan()), MICA_OK);
  const auto run = [&](const std::string& folder) {
    setenv("MICA_VULKAN_CACHE", folder.c_str(), 1);
    mica_device* raw = nullptr;
    if (mica_device_open(c, "vulkan:llvmpipe", &raw) != MICA_OK) return false;
    const Device device(raw);
    const Graph g = make_graph(context);
    const mica_tensor x = input(g.get(), "x", {64});
    mica_output(g.get(), mica_add(g.get(), mica_mul(g.get(), x, x), x), "y");
    const Session session = make_session(device);
    mica_plan* plan = ready(context, session, g);
    set(session, "x", std::vector<float>(64, 3));
    EXPECT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(c);
    EXPECT_EQ(read(plan, "y", 64), std::vector<float>(64, 12));
    return true;
  };
  if (!run(folder_)) GTEST_SKIP() << mica_context_error(c);
  ASSERT_EQ(files().size(), 1u);
  const fs::path file = files()[0];
  const std::string whole = content(file);
  std::string flipped = whole, other = whole;
  flipped[whole.size() - 1] ^= 1;
  other[20] ^= 1;  // the driver's version or UUID
  for (const std::string& text : {std::string(), whole.substr(0, 20), whole + "x", flipped, other,
                                  std::string(100, '\0'), whole}) {
    put(file, text);
    EXPECT_TRUE(run(folder_));
    EXPECT_EQ(content(file), whole);
  }
  EXPECT_TRUE(run("/proc"));
  EXPECT_TRUE(run(file.string()));  // a file where a folder should be
}

}  // namespace
}  // namespace mica::test
