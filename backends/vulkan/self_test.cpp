// Products of small whole numbers by the kernels of matmul: exact on every path, so that any
// difference is a fault.
#include "backends/vulkan/self_test.h"

#include <algorithm>
#include <cstdlib>

#include "backends/vulkan/layout.h"
#include "backends/vulkan/one_time.h"
#include "ops/dtypes/q8_0.h"

namespace mica::vulkan {

extern const KernelList kernels_matmul;

namespace {

constexpr const char* kNames[kPaths] = {"plain", "dot", "coopmat"};

constexpr uint32_t kK = 256, kN = 128;
constexpr uint16_t kHalfOne = 0x3c00;

struct Trial {
  Path path;
  mica_dtype weight;  // F16 or Q8_0
  uint32_t m;
};
constexpr Trial kTrials[] = {
    {kPlain, MICA_Q8_0, 1},     {kPlain, MICA_F16, 40},    {kDot, MICA_Q8_0, 1},
    {kDot, MICA_Q8_0, 4},       {kCoopmat, MICA_Q8_0, 16}, {kCoopmat, MICA_F16, 264},
    {kCoopmat, MICA_Q8_0, 264},
};

int32_t weight_at(uint32_t n, uint32_t k) { return static_cast<int32_t>((k * 7 + n * 3) % 9) - 4; }
// Each 32 have one element of 127: rounded to int8 with a scale a 32 they stay what they are.
int32_t x_at(uint32_t m, uint32_t k) {
  return k % 32 == m % 32 ? 127 : static_cast<int32_t>((k * 5 + m * 11) % 13) - 6;
}
int32_t product_at(uint32_t m, uint32_t n) {
  int32_t sum = 0;
  for (uint32_t k = 0; k < kK; ++k) sum += weight_at(n, k) * x_at(m, k);
  return sum;
}

// Of an integer of at most 10 bits.
uint16_t half_of(int32_t value) {
  uint32_t mag = static_cast<uint32_t>(value < 0 ? -value : value), exponent = 25;
  if (mag == 0) return 0;
  for (; mag < 1024; mag *= 2) --exponent;
  return static_cast<uint16_t>((value < 0 ? 0x8000u : 0u) | exponent << 10 | (mag & 1023u));
}

bool named(const char* list, const char* word) {
  const size_t n = std::strlen(word);
  for (const char* at = list; at != nullptr; at = std::strchr(at, ',')) {
    if (*at == ',') ++at;
    if (std::strncmp(at, word, n) == 0 && (at[n] == '\0' || at[n] == ',')) return true;
  }
  return false;
}

bool has(const DeviceCaps& caps, uint32_t path) {
  return path == kPlain || (path == kDot && caps.dot) ||
         (path == kCoopmat && caps.cooperative_matrix);
}
DeviceCaps only(DeviceCaps caps, Path path) {
  caps.dot = path == kDot;
  caps.cooperative_matrix = path == kCoopmat;
  return caps;
}
void remove(DeviceCaps& caps, uint32_t path) {
  if (path == kDot) caps.dot = false;
  if (path == kCoopmat) caps.cooperative_matrix = false;
}

Tensor tensor(mica_dtype dtype, uint64_t address, int64_t n, int64_t rows, int64_t row_bytes,
              int64_t elem_bytes) {
  Tensor t{};
  t.dtype = dtype;
  t.rank = 2;
  t.storage = MICA_B_TEMP;
  t.address = address;
  t.dim[0] = n, t.dim[1] = rows, t.dim[2] = t.dim[3] = 1;
  t.stride[0] = elem_bytes, t.stride[1] = row_bytes;
  t.stride[2] = t.stride[3] = row_bytes * rows;
  return t;
}

// One trial: its memory, its product, the comparison.
class Product {
 public:
  Product(Device& d, const Trial& trial, Error& error)
      : d_(d), trial_(trial), error_(error), bytes_(d.allocator) {}
  ~Product() { buffer_free(buffer_); }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  // False in `right`: the device's product is not `expected` + `off`.
  mica_status run(int32_t off, bool& right) {
    right = false;
    const DeviceCaps caps = only(d_.caps, trial_.path);
    gpu::Bound bound;
    Writer reason(nullptr, 0);
    bind(caps, bound);
    const auto none = [](const char*) -> const KernelList* { return nullptr; };
    const Kernel* kernel = choose_row(kernels_matmul, bound.call, nullptr, none, reason);
    if (kernel == nullptr) return error_.fail(MICA_INTERNAL, "vulkan: no matmul for a self-test");
    const uint64_t workspace =
        kernel->workspace != nullptr ? kernel->workspace(bound.call) : uint64_t{0};
    MICA_TRY(own(buffer_create(handle(), kWorkspaceAt + workspace, &buffer_)));
    MICA_TRY(write());
    bind(caps, bound);
    MICA_TRY(multiply(*kernel, bound.call));
    return compare(off, right);
  }

 private:
  static constexpr uint64_t kXAt = uint64_t{1} << 17, kYAt = uint64_t{1} << 19,
                            kWorkspaceAt = kYAt + (uint64_t{1} << 18);
  mica_b_device* handle() const { return reinterpret_cast<mica_b_device*>(&d_); }
  // Calls of the backend's table have told the host why; here it is kept too.
  mica_status own(mica_status status) {
    return status == MICA_OK ? status : error_.fail(status, "vulkan: a self-test cannot be run");
  }

  void bind(const DeviceCaps& caps, gpu::Bound& out) const {
    const uint64_t base = buffer_ != nullptr ? of(buffer_).address : 256;
    const bool is_half = trial_.weight == MICA_F16;
    out = gpu::Bound{};
    out.name = "matmul";
    Call& c = out.call;
    c.op = MICA_OP_matmul;
    c.n_in = 2;
    c.device = &caps;
    c.in[0] =
        tensor(trial_.weight, base, kK, kN, is_half ? kK * 2 : kK / 32 * 34, is_half ? 2 : 34);
    c.in[0].storage = MICA_B_WEIGHT;
    c.in[0].layout = is_half ? kLayoutPlain : kLayoutPlanes;
    c.in[1] = tensor(MICA_F32, base + kXAt, kK, trial_.m, kK * 4, 4);
    c.out = tensor(MICA_F32, base + kYAt, kN, trial_.m, kN * 4, 4);
    c.workspace = base + kWorkspaceAt;
  }

  // Plain rows of the weight, packed as any; then x.
  mica_status write() {
    const bool is_half = trial_.weight == MICA_F16;
    const uint64_t most = uint64_t{kK} * std::max(kN, trial_.m) * 4;
    if (!bytes_.resize(most)) return error_.out_of_memory("a self-test");
    auto* halves = reinterpret_cast<uint16_t*>(bytes_.data());
    auto* blocks = reinterpret_cast<mica_block_q8_0*>(bytes_.data());
    for (uint32_t i = 0; i < kK * kN; ++i) {
      const int32_t value = weight_at(i / kK, i % kK);
      if (is_half) {
        halves[i] = half_of(value);
      } else {
        blocks[i / 32].d = kHalfOne;
        blocks[i / 32].qs[i % 32] = static_cast<int8_t>(value);
      }
    }
    mica_b_value w{};
    w.dtype = trial_.weight;
    w.rank = 2;
    w.dim[0] = kK, w.dim[1] = kN, w.dim[2] = w.dim[3] = 1;
    MICA_TRY(own(weight_pack(handle(), &w, buffer_, bytes_.data(), 0, kN)));
    auto* x = reinterpret_cast<float*>(bytes_.data());
    for (uint32_t i = 0; i < kK * trial_.m; ++i) x[i] = static_cast<float>(x_at(i / kK, i % kK));
    return own(buffer_write(buffer_, kXAt, x, uint64_t{kK} * trial_.m * 4));
  }

  mica_status multiply(const Kernel& kernel, const Call& call) {
    OneTime once(d_);
    mica_status status = once.begin();
    if (status == MICA_OK) status = kernel.record(call, once.recorder());
    if (status == MICA_OK) status = once.run();
    of(buffer_).last_use = d_.submitted;
    if (status == MICA_OK) return MICA_OK;
    return error_.fail(status, once.error().code() != MICA_OK
                                   ? once.error().text()
                                   : "vulkan: matmul cannot be recorded for a self-test");
  }

  mica_status compare(int32_t off, bool& right) {
    auto* y = reinterpret_cast<float*>(bytes_.data());
    MICA_TRY(own(buffer_read(buffer_, kYAt, y, uint64_t{kN} * trial_.m * 4)));
    right = true;
    for (uint32_t i = 0; i < kN * trial_.m && right; ++i)
      right = y[i] == static_cast<float>(product_at(i / kN, i % kN) + off);
    return MICA_OK;
  }

  Device& d_;
  const Trial& trial_;
  Error& error_;
  Vec<char> bytes_;
  mica_b_buffer* buffer_ = nullptr;
};

// A path may also fail by not compiling; what any call can meet is no verdict.
mica_status try_path(Device& d, uint32_t path, bool must_fail, Error& error) {
  char why[200] = "its self-test gave a wrong product";
  bool right = true;
  for (const Trial& trial : kTrials) {
    if (trial.path != path || !right) continue;
    Error trouble;
    const mica_status status = Product(d, trial, trouble).run(must_fail ? 1 : 0, right);
    if (status == MICA_OK) continue;
    if (status == MICA_OUT_OF_MEMORY || status == MICA_DEVICE_LOST || d.n_messages > 0)
      return error.fail(status, trouble.text());
    Writer(why, sizeof why).put(trouble.text());
    right = false;
  }
  if (right) return MICA_OK;
  if (path == kPlain)
    return error.fail(MICA_NO_DEVICE, "vulkan: ", quoted(d.name),
                      " cannot be used: ", static_cast<const char*>(why));
  d.failed_paths |= 1u << path;
  remove(d.caps, path);
  char text[400];
  Writer(text, sizeof text)
      .put("vulkan: ", quoted(d.name), ": the path ", kNames[path])
      .put(" is not used: ", static_cast<const char*>(why));
  if (d.host.log != nullptr) d.host.log(d.host.user, MICA_LOG_WARNING, text);
  return MICA_OK;
}

}  // namespace

mica_status self_test(Device& d, Error& error) {
  const char* must_fail = std::getenv("MICA_VULKAN_FAIL");
  const bool injected = must_fail != nullptr && must_fail[0] != '\0';
  uint32_t done = 0;
  if (!injected) known_paths(d, done, d.failed_paths);
  for (uint32_t path = kPaths; path-- > 0;) {
    const uint32_t bit = 1u << path;
    if (!has(d.caps, path)) continue;
    if ((done & bit) != 0) {
      if ((d.failed_paths & bit) != 0) remove(d.caps, path);
      continue;
    }
    const bool to_fail = injected && named(must_fail, kNames[path]);
    if (path == kPlain && d.type == VK_PHYSICAL_DEVICE_TYPE_CPU && !to_fail) continue;
    MICA_TRY(try_path(d, path, to_fail, error));
    done |= bit;
  }
  if (!injected) note_paths(d, done, d.failed_paths);
  return MICA_OK;
}

void put_paths(const DeviceCaps& caps, uint32_t failed, Writer& out) {
  bool any = caps.keeps_subnormals;
  out.put(",");
  for (uint32_t path = kPaths; path-- > kDot;) {
    if (!has(caps, path)) continue;
    out.put(" ", kNames[path]);
    any = true;
  }
  if (caps.keeps_subnormals) out.put(" denorm");
  if (!any) out.put(" plain");
  for (uint32_t path = kPaths; path-- > kDot;)
    if ((failed >> path & 1) != 0) out.put("; ", kNames[path], " failed its self-test");
}

}  // namespace mica::vulkan
