// Trying each arithmetic path of a device once, when it is opened: small products of matrices whose
// elements are known exactly. Drivers say that they have a path and then compute nonsense; a path
// that fails is not used, and the device's name says so.
#pragma once
#include "backends/vulkan/device.h"

namespace mica::vulkan {

enum Path : uint32_t { kPlain, kDot, kCoopmat, kPaths };

// Takes the paths that fail out of d.caps, into d.failed_paths. NO_DEVICE: the plain path fails,
// which every kernel needs. The environment's MICA_VULKAN_FAIL names paths that are to fail, for
// tests. Of a driver that computes on the CPU the plain path is not tried: it is there for tests,
// which try it more thoroughly.
mica_status self_test(Device& d, Error& error);
// ", coopmat dot" or ", plain", and which failed.
void put_paths(const DeviceCaps& caps, uint32_t failed, Writer& out);

}  // namespace mica::vulkan
