// A compiled partition: its units bound to kernels, cut into stages that the threads walk through.
#pragma once
#include "backends/cpu/registry.h"

namespace mica::cpu {

// Counters of one step carry its number in their upper bits: a thread that comes late, with the
// number of a step that is over, finds nothing to take, whatever has begun meanwhile.
constexpr uint32_t kCountBits = 40;
constexpr uint64_t kCountMask = (uint64_t{1} << kCountBits) - 1;
constexpr uint64_t kEpochMask = (uint64_t{1} << (64 - kCountBits)) - 1;
constexpr uint64_t tagged(uint64_t epoch, uint64_t count) { return (epoch << kCountBits) | count; }
constexpr uint64_t epoch_of(uint64_t word) { return word >> kCountBits; }
constexpr uint64_t count_of(uint64_t word) { return word & kCountMask; }

// The pieces [next, end) of a lane as one count.
constexpr uint32_t kPieceBits = kCountBits / 2;
constexpr uint64_t kMaxPieces = (uint64_t{1} << kPieceBits) - 1;  // of one lane
constexpr uint64_t pieces(uint64_t next, uint64_t end) { return (next << kPieceBits) | end; }
constexpr uint64_t next_of(uint64_t word) { return count_of(word) >> kPieceBits; }
constexpr uint64_t end_of(uint64_t word) { return word & kMaxPieces; }

// A run of neighbouring pieces. A thread takes those of its own lane first, so that it meets the
// data it has in its cache and reads memory in order, and then helps out in the others.
struct alignas(64) Lane {
  std::atomic<uint64_t> left{0};  // tagged pieces
};
constexpr uint32_t kMaxLanes = 8;

// One phase of one unit.
struct Work {
  const Kernel* kernel = nullptr;
  const Call* call = nullptr;
  uint32_t phase = 0;
  Lane* lanes = nullptr;
  // Of this step; read only by who has taken a piece.
  int64_t items = 0;
  int64_t grain = 1;  // items of a piece
};

// Work that may be done at the same time. A stage begins when the one before it is complete.
struct alignas(64) Stage {
  std::atomic<uint64_t> left{0};  // tagged: pieces not yet finished
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
  T* data() { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }

 private:
  const mica_allocator* allocator_;
  T* data_ = nullptr;
  size_t size_ = 0;
};

// Of all threads, in a plan of the partition: what a plan allocates beside the arena.
uint64_t scratch_bytes(const mica_b_device& device, const mica_b_partition& partition);

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
  uint64_t set_up(mica::cpu::Work& work, uint64_t epoch);
  bool work_on(mica::cpu::Stage& stage, uint64_t epoch, uint32_t i_thread);
  uint64_t empty_lane(mica::cpu::Work& work, uint32_t lane, uint64_t epoch, uint32_t i_thread);
  bool stopped(uint64_t epoch) const { return stopped_epoch_.load() == epoch; }

  mica_b_device& device_;
  const mica_b_partition& partition_;
  const bool is_cancellable_;
  const char* step_block_ = nullptr;
  mica::cpu::Slots<mica::cpu::Bound> bound_;
  mica::cpu::Slots<mica::cpu::Call> members_;  // of all regions
  mica::cpu::Slots<mica::cpu::Work> works_;
  mica::cpu::Slots<mica::cpu::Lane> lanes_;  // n_lanes_ for each work
  mica::cpu::Slots<mica::cpu::Stage> stages_;
  mica::Vec<mica::cpu::Patch> patches_;
  mica::Vec<int64_t> extents_;  // values in this step; -1: nothing follows it
  char* scratch_ = nullptr;
  uint64_t scratch_bytes_ = 0;  // of one thread
  uint32_t n_lanes_ = 1;
  bool in_flight_ = false;

  alignas(64) std::atomic<uint64_t> epoch_{0};  // of the step that threads may work on
  std::atomic<uint64_t> stopped_epoch_{UINT64_MAX};
  alignas(64) std::atomic<uint64_t> hint_{0};  // tagged: no stage before this one is unfinished
  mica::cpu::Event stage_done_;
};
