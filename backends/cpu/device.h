// The CPU backend's device and buffers.
#pragma once
#include "backends/cpu/isa.h"
#include "backends/cpu/pool.h"

struct mica_b_device {
  explicit mica_b_device(const mica_host& h) : host(h), allocator(*h.allocator), pool(allocator) {}

  mica_host host;
  mica_allocator allocator;
  mica_executor executor{};
  mica::cpu::Isa isa = mica::cpu::Isa::plain;
  mica::cpu::Features features{};
  mica::cpu::Pool pool;

  bool cancelled() const {
    return host.cancel != nullptr && __atomic_load_n(host.cancel, __ATOMIC_RELAXED) != 0;
  }
  mica_status fail(const mica::Error& error) const {
    if (host.set_error != nullptr) host.set_error(host.user, error.code(), error.text());
    return error.code();
  }
};

struct mica_b_buffer {
  mica_b_device* device;
  char* data;
  uint64_t bytes;
  uint64_t mapped_bytes;  // of the mapping; 0: from the allocator, or
  bool imported;          // somebody else's
};
