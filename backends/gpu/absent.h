// What stands for a GPU backend that this build does not have: no devices, and a sentence why.
#pragma once
#include "core/base/text.h"
#include "mica/backend.h"

namespace mica::gpu {

inline mica_status refuse_absent(const mica_host* host, mica_b_device** out, const char* what,
                                 const char* remedy) {
  *out = nullptr;
  Error error;
  error.fail(MICA_NO_DEVICE, "this mica was built without ", what, "; ", remedy);
  if (host->set_error != nullptr) host->set_error(host->user, error.code(), error.text());
  return MICA_NO_DEVICE;
}

// `open` refuses. Nothing behind it is ever called: there is no device to call it with.
constexpr mica_backend absent_backend(const char* name, decltype(mica_backend::device_open) open) {
  mica_backend table{};
  table.struct_size = sizeof table;
  table.abi = MICA_BACKEND_ABI;
  table.name = name;
  table.device_count = [](const mica_host*) -> uint32_t { return 0; };
  table.device_info = [](const mica_host*, uint32_t, mica_device_info*) { return MICA_NOT_FOUND; };
  table.device_open = open;
  return table;
}

}  // namespace mica::gpu
