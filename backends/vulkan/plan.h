// A compiled partition: command buffers, recorded once and submitted for every step. Mostly it is
// one; long work is cut into several, so that a step can be cancelled between them and no
// submission keeps a GPU that also drives a screen busy for long.
#pragma once
#include "backends/cancellable.h"
#include "backends/vulkan/recorder.h"

namespace mica::vulkan {

class Plan {
 public:
  Plan(Device& d, const mica_b_partition& p)
      : device_(d), partition_(p), is_cancellable_(mica::is_cancellable(p)), buffers_(d.allocator),
        constants_(d.allocator), parts_(d.allocator) {}
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  mica_status compile(mica_b_buffer* const* buffers, Error& error);
  mica_status submit(Error& error);
  mica_status wait(Error& error);
  Device& device() { return device_; }
  size_t n_parts() const { return parts_.size(); }

 private:
  struct Part {
    VkCommandBuffer commands;
    uint64_t value;  // of its last submission
  };
  mica_status record_unit(Recorder& recorder, const mica_b_unit& unit, const uint64_t* bases,
                          Error& error);
  mica_status begin_part(Recorder& recorder, Error& error);
  mica_status submit_next(Error& error);
  mica_status submit_rest(Error& error);
  bool cancelled() const { return is_cancellable_ && device_.cancelled(); }

  Device& device_;
  const mica_b_partition& partition_;
  const bool is_cancellable_;
  Vec<Buffer*> buffers_;
  Constants constants_;
  Vec<Part> parts_;
  size_t next_ = 0;  // part to be submitted
  bool in_flight_ = false;
};

}  // namespace mica::vulkan
