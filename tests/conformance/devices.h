// The devices that the command line names.
#pragma once
#include <string>
#include <vector>

#include "tests/conformance/jobs.h"

namespace mica::conformance {

// `lists`: "cpu:avx2" or "ref,cpu:avx2"; of a plug-in also none, which means its only backend.
// Throws std::runtime_error where a name has no backend or the plug-in cannot be loaded.
std::vector<Device> find_devices(const std::vector<std::string>& lists, const std::string& plugin);

enum class Presence { kThere, kMissing, kBroken };
// Opens the device in a process of its own and prints why it cannot be: CUDA, once used, does not
// work in children of the process. kMissing: this machine lacks it, so it is "not run".
Presence check_device(const Device& device, std::string& why);

// Keeps a device open: on a GPU what a case opens then is there already, and takes no second.
class HeldDevice {
 public:
  explicit HeldDevice(const Device& device);
  ~HeldDevice();
  HeldDevice(const HeldDevice&) = delete;
  HeldDevice& operator=(const HeldDevice&) = delete;
  mica_status status() const { return status_; }
  const char* error() const;
  mica_context* context() const { return context_; }
  mica_device* device() const { return device_; }

 private:
  mica_context* context_ = nullptr;
  mica_device* device_ = nullptr;
  mica_status status_ = MICA_OK;
};

}  // namespace mica::conformance
