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

// `open` refuses. Nothing behind it is ever called, for there is no device to call it with; a table
// has to be complete all the same.
constexpr mica_backend absent_backend(const char* name, decltype(mica_backend::device_open) open) {
  mica_backend table{};
  table.struct_size = sizeof table;
  table.abi = MICA_BACKEND_ABI;
  table.name = name;
  table.device_count = [](const mica_host*) -> uint32_t { return 0; };
  table.device_info = [](const mica_host*, uint32_t, mica_device_info*) { return MICA_NOT_FOUND; };
  table.device_open = open;
  constexpr auto refuse = [](auto...) { return MICA_NO_DEVICE; };
  constexpr auto nothing = [](auto...) {};
  table.device_close = nothing;
  table.device_state = refuse;
  table.buffer_create = refuse;
  table.buffer_free = nothing;
  table.buffer_write = refuse;
  table.buffer_read = refuse;
  table.buffer_copy = refuse;
  table.weight_layout = refuse;
  table.weight_pack = refuse;
  table.weight_unpack = refuse;
  table.kv_layout = refuse;
  table.supports = refuse;
  table.claims = refuse;
  table.query = refuse;
  table.compile = refuse;
  table.submit = refuse;
  table.wait = refuse;
  table.plan_release = nothing;
  return table;
}

}  // namespace mica::gpu
