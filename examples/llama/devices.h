// The backends that mica-llama links, and which device a name means.
#pragma once
#include <string>
#include <vector>

#include "handles.h"

namespace mica_llama {

// Adds cpu, ref, cuda and vulkan.
void add_backends(mica_context* context);

// A backend's device, or why it has none.
struct DeviceLine {
  std::string name;  // as mica_device_open takes it: "cuda:0"
  std::string description;
  uint64_t memory_bytes = 0, free_bytes = 0;  // 0: unknown
  bool is_cpu = false;
  bool is_there = true;  // false: `description` says why not
};
std::vector<DeviceLine> list_devices();

// Opens the device called `name` and sets it to what was opened. "auto": the first of cuda's
// devices that can be opened, else of vulkan's that are no processors, else cpu; `skipped` gets a
// line for each that could not be.
Device open_device(mica_context* context, std::string& name, std::vector<std::string>& skipped);

}  // namespace mica_llama
