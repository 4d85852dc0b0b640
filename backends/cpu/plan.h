// A compiled partition: its units bound to kernels, cut into stages that the threads walk through.
#pragma once
#include "backends/cpu/registry.h"

namespace mica::cpu {

// Counters of one step carry its number in their upper bits: a thread that comes late, with the
// number of a step that is over, finds nothing to take, whatever has begun meanwhile.
constexpr uint32_t kItemBits = 40;
constexpr uint64_t kItemMask = (uint64_t{1} << kItemBits) - 1;
constexpr uint64_t kEpochMask = (uint64_t{1} << (64 - kItemBits)) - 1;
constexpr uint64_t tagged(uint64_t epoch, uint64_t items) { return (epoch << kItemBits) | items; }
constexpr uint64_t epoch_of(uint64_t word) { return word >> kItemBits; }
constexpr uint64_t items_of(uint64_t word) { return word & kItemMask; }

// One phase of one unit.
struct alignas(64) Work {
  std::atomic<uint64_t> next{0};   // tagged: the first item that nobody took
  std::atomic<uint64_t> items{0};  // in this step
  std::atomic<uint64_t> grain{1};
  const Kernel* kernel = nullptr;
  const Call* call = nullptr;
  uint32_t phase = 0;
};

// Work that may be done at the same time. A stage begins when the one before it is complete.
struct alignas(64) Stage {
  std::atomic<uint64_t> left{0};  // tagged: items not yet finished
  uint32_t first = 0, end = 0;    // of works
};

// A dimension that follows an extent.
struct Patch {
  int64_t* dim;
  uint32_t extent;
};

// n default-made objects that never move.
template <class T>
class Slots {
 public:
  explicit Slots(const mica_allocator& a) : allocator_(&a) {}
  ~Slots() {
    for (size_t i = 0; i < size_; ++i) data_[i].~T();
    deallocate(*allocator_, data_, size_ * sizeof(T));
  }
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;
  [[nodiscard]] bool make(size_t n) {
    size_t bytes = 0;
    if (!checked_mul(n, sizeof(T), bytes)) return false;
    data_ = static_cast<T*>(allocate(*allocator_, bytes, alignof(T) < 16 ? 16 : alignof(T)));
    if (data_ == nullptr) return false;
    size_ = n;
    for (size_t i = 0; i < n; ++i) new (data_ + i) T();
    return true;
  }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }

 private:
  const mica_allocator* allocator_;
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace mica::cpu

struct mica_b_plan : mica::cpu::Task {
  mica_b_plan(mica_b_device& d, const mica_b_partition& p);
  ~mica_b_plan();
  mica_b_plan(const mica_b_plan&) = delete;
  mica_b_plan& operator=(const mica_b_plan&) = delete;

  mica_status compile(mica_b_buffer* const* buffers, mica::Error& error);
  mica_status submit(mica::Error& error);
  mica_status wait();
  const mica_b_device& device() const { return device_; }

 private:
  mica_status bind_units(mica_b_buffer* const* buffers, mica::Error& error);
  mica_status cut_stages(mica::Error& error);
  mica_status collect_patches(mica::Error& error);
  mica_status read_extents(mica::Error& error);
  void walk(uint64_t epoch, uint32_t i_thread);
  uint64_t do_work(const mica::cpu::Stage& stage, uint64_t epoch, char* scratch);
  bool stopped(uint64_t epoch) const { return stopped_epoch_.load() == epoch; }

  mica_b_device& device_;
  const mica_b_partition& partition_;
  const char* step_block_ = nullptr;
  mica::cpu::Slots<mica::cpu::Bound> bound_;
  mica::cpu::Slots<mica::cpu::Work> works_;
  mica::cpu::Slots<mica::cpu::Stage> stages_;
  mica::Vec<mica::cpu::Patch> patches_;
  mica::Vec<int64_t> extents_;  // values in this step; -1: nothing follows it
  char* scratch_ = nullptr;
  uint64_t scratch_bytes_ = 0;  // of one thread
  bool in_flight_ = false;

  alignas(64) std::atomic<uint64_t> epoch_{0};  // of the step that threads may work on
  std::atomic<uint64_t> stopped_epoch_{UINT64_MAX};
  alignas(64) std::atomic<uint64_t> hint_{0};  // tagged: no stage before this one is unfinished
  mica::cpu::Event stage_done_;
};
