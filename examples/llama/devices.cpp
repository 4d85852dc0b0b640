// Listing devices, and the choice that "auto" makes.
#include "devices.h"

#include <cstring>

namespace mica_llama {
namespace {

constexpr const char* kBackends[] = {"cpu", "ref", "cuda", "vulkan"};

Context new_context() {
  mica_context* context = nullptr;
  const mica_status status = mica_context_create(nullptr, &context);
  if (status != MICA_OK)
    fail(status, std::string("cannot create a context: ") + mica_status_text(status));
  Context owner(context);
  add_backends(context);
  return owner;
}

std::vector<DeviceLine> devices_of(mica_context* context) {
  std::vector<DeviceLine> lines;
  uint32_t n = 0;
  check(mica_device_count(context, &n), context);
  std::string backend;
  uint32_t i_of_backend = 0;
  for (uint32_t i = 0; i < n; ++i) {
    mica_device_info info{};
    if (mica_device_describe(context, i, &info) != MICA_OK) continue;
    i_of_backend = backend == info.backend ? i_of_backend + 1 : 0;
    backend = info.backend;
    const bool is_numbered = backend != "cpu" && backend != "ref";
    lines.push_back({is_numbered ? backend + ":" + std::to_string(i_of_backend) : backend,
                     info.name, info.memory_bytes, info.free_bytes, info.is_cpu != 0, true});
  }
  return lines;
}

}  // namespace

void add_backends(mica_context* context) {
  for (const mica_backend* backend :
       {mica_backend_cpu(), mica_backend_ref(), mica_backend_cuda(), mica_backend_vulkan()})
    check(mica_context_add_backend(context, backend), context);
}

std::vector<DeviceLine> list_devices() {
  const Context context = new_context();
  std::vector<DeviceLine> lines = devices_of(context.get());
  for (const char* backend : kBackends) {
    bool found = false;
    for (const DeviceLine& line : lines)
      found |= line.name.compare(0, line.name.find(':'), backend) == 0;
    mica_device* device = nullptr;
    if (found || mica_device_open(context.get(), backend, &device) == MICA_OK) {
      mica_device_release(device);
      continue;
    }
    DeviceLine line;
    line.name = backend;
    line.description = mica_context_error(context.get());
    line.is_there = false;
    lines.push_back(line);
  }
  return lines;
}

Device open_device(mica_context* context, std::string& name, std::vector<std::string>& skipped) {
  mica_device* device = nullptr;
  if (name != "auto") {
    check(mica_device_open(context, name.c_str(), &device), context);
    return Device(device);
  }
  const std::vector<DeviceLine> lines = devices_of(context);
  for (const char* backend : {"cuda:", "vulkan:"})
    for (const DeviceLine& line : lines) {
      if (line.is_cpu || line.name.compare(0, std::strlen(backend), backend) != 0) continue;
      if (mica_device_open(context, line.name.c_str(), &device) == MICA_OK) {
        name = line.name;
        return Device(device);
      }
      skipped.push_back(line.name + " is not used: " + mica_context_error(context));
    }
  name = "cpu";
  check(mica_device_open(context, "cpu", &device), context);
  return Device(device);
}

}  // namespace mica_llama
