// The ways of bytes to the device and back, and waiting for it.
#include <sched.h>
#include <time.h>

#include "backends/cuda/device.h"

namespace mica::cuda {
namespace {

constexpr uint64_t kSmallWrite = 16 << 10;

uint64_t now_ns() {
  timespec t = {};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

Mailbox& mailbox_of(const Device& d) {
  return *reinterpret_cast<Mailbox*>(d.small.slot(d.mailbox));
}

mica_status begin_mailbox(Device& d) {
  const uint32_t slot = d.small.take();
  MICA_TRY(await(d, d.small.event(slot), nullptr));
  d.mailbox = slot;
  d.mailbox_bytes = align_up<uint32_t>(sizeof(Mailbox), 16);
  mailbox_of(d).n = 0;
  return MICA_OK;
}

// The waiting write to exactly these bytes, or nullptr; `clash`: one that overlaps them otherwise.
const PendingWrite* find_pending(const Mailbox& m, uint64_t dst, uint64_t bytes, bool& clash) {
  clash = false;
  for (uint32_t i = 0; i < m.n; ++i) {
    const PendingWrite& w = m.writes[i];
    if (w.dst == dst && w.bytes == bytes) return &w;
    if (w.dst < dst + bytes && dst < w.dst + w.bytes) clash = true;
  }
  return nullptr;
}

// Puts a small write into the mailbox.
mica_status post(Device& d, uint64_t dst, const void* src, uint64_t bytes) {
  if (d.mailbox != UINT32_MAX) {
    bool clash = false;
    const PendingWrite* same = find_pending(mailbox_of(d), dst, bytes, clash);
    if (same != nullptr && !clash) {
      std::memcpy(d.small.slot(d.mailbox) + same->offset, src, bytes);
      return MICA_OK;
    }
    const bool full =
        mailbox_of(d).n == kMaxPending || d.mailbox_bytes + bytes > d.small.slot_bytes();
    if (full || clash || same != nullptr) MICA_TRY(flush(d));
  }
  if (d.mailbox == UINT32_MAX) MICA_TRY(begin_mailbox(d));
  Mailbox& m = mailbox_of(d);
  const auto n = static_cast<uint32_t>(bytes);
  std::memcpy(d.small.slot(d.mailbox) + d.mailbox_bytes, src, bytes);
  m.writes[m.n++] = {dst, d.mailbox_bytes, n};
  d.mailbox_bytes = align_up<uint32_t>(d.mailbox_bytes + n, 16);
  return MICA_OK;
}

}  // namespace

mica_status open_large(Device& d) {
  if (d.large.is_open()) return MICA_OK;
  return check(d, d.large.open(*d.driver, Ring::kLargeSlot), "get pinned memory");
}

cudaError_t Ring::open(const Driver& driver, uint64_t slot_bytes) {
  void* memory = nullptr;
  // Portable: pinned for every device, whichever is current when it is freed.
  cudaError_t error = driver.host_alloc(&memory, slot_bytes * kSlots, cudaHostAllocPortable);
  if (error != cudaSuccess) return error;
  base_ = static_cast<char*>(memory);
  slot_bytes_ = slot_bytes;
  for (cudaEvent_t& event : events_) {
    error = driver.event_create(&event, cudaEventDisableTiming);
    if (error == cudaSuccess) continue;
    close(driver);
    return error;
  }
  return cudaSuccess;
}

void Ring::close(const Driver& driver) {
  for (cudaEvent_t& event : events_) {
    if (event != nullptr) driver.event_destroy(event);
    event = nullptr;
  }
  if (base_ != nullptr) driver.free_host(base_);
  base_ = nullptr;
}

// Most steps end within the first, spinning, part; then other threads come first; behind 20 ms,
// 50 us more or less do not matter.
mica_status await(Device& d, cudaEvent_t event, bool* out_cancelled) {
  constexpr uint64_t kSpin = 100000, kYield = 20000000;
  uint64_t start = 0;
  for (;;) {
    const cudaError_t e = d.driver->event_query(event);
    if (e == cudaSuccess) return MICA_OK;
    if (e != cudaErrorNotReady) return check(d, e, "finish a step");
    if (out_cancelled != nullptr && d.cancelled()) *out_cancelled = true;
    const uint64_t now = now_ns();
    if (start == 0) start = now;
    if (now - start > kYield) {
      const timespec nap = {0, 50000};
      nanosleep(&nap, nullptr);
    } else if (now - start > kSpin) {
      sched_yield();
    }
  }
}

mica_status drain(Device& d) {
  MICA_TRY(flush(d));
  const uint32_t slot = d.small.take();
  MICA_TRY(check(d, d.driver->event_record(d.small.event(slot), d.stream), "record an event"));
  return await(d, d.small.event(slot), nullptr);
}

mica_status flush(Device& d) {
  if (d.mailbox == UINT32_MAX) return MICA_OK;
  const uint32_t slot = d.mailbox;
  // One that fails goes on waiting: whoever wrote was told that the bytes will be there.
  MICA_TRY(check(d, d.driver->scatter(&mailbox_of(d), d.stream), "write inputs"));
  d.mailbox = UINT32_MAX;
  return check(d, d.driver->event_record(d.small.event(slot), d.stream), "record an event");
}

void forget(Device& d, uint64_t address, uint64_t bytes) {
  if (d.mailbox == UINT32_MAX) return;
  Mailbox& m = mailbox_of(d);
  uint32_t n = 0;
  for (uint32_t i = 0; i < m.n; ++i) {
    const PendingWrite& w = m.writes[i];
    if (w.dst < address || w.dst - address >= bytes) m.writes[n++] = w;
  }
  m.n = n;
  if (n == 0) d.mailbox = UINT32_MAX;
}

mica_status upload(Device& d, uint64_t dst, const void* src, uint64_t bytes) {
  if (bytes == 0) return MICA_OK;
  if (bytes <= kSmallWrite) return post(d, dst, src, bytes);
  MICA_TRY(flush(d));
  MICA_TRY(open_large(d));
  const char* from = static_cast<const char*>(src);
  for (uint64_t at = 0; at < bytes; at += Ring::kLargeSlot) {
    const uint64_t n = bytes - at < Ring::kLargeSlot ? bytes - at : Ring::kLargeSlot;
    const uint32_t slot = d.large.take();
    MICA_TRY(await(d, d.large.event(slot), nullptr));
    std::memcpy(d.large.slot(slot), from + at, n);
    MICA_TRY(check(d,
                   d.driver->memcpy_async(pointer(dst + at), d.large.slot(slot), n,
                                          cudaMemcpyHostToDevice, d.stream),
                   "copy to the device"));
    MICA_TRY(check(d, d.driver->event_record(d.large.event(slot), d.stream), "record an event"));
  }
  return MICA_OK;
}

mica_status download(Device& d, void* dst, uint64_t src, uint64_t bytes) {
  if (bytes == 0) return MICA_OK;
  MICA_TRY(flush(d));
  if (bytes > Ring::kSmallSlot) MICA_TRY(open_large(d));
  Ring& ring = bytes > Ring::kSmallSlot ? d.large : d.small;
  uint32_t slots[Ring::kSlots];
  const uint64_t n_pieces = (bytes + ring.slot_bytes() - 1) / ring.slot_bytes();
  const auto piece_bytes = [&](uint64_t i) {
    const uint64_t left = bytes - i * ring.slot_bytes();
    return left < ring.slot_bytes() ? left : ring.slot_bytes();
  };
  // Piece i is on its way while the ones before it are taken out.
  for (uint64_t i = 0, out = 0; out < n_pieces;) {
    if (i < n_pieces && i - out < Ring::kSlots) {
      const uint32_t slot = slots[i % Ring::kSlots] = ring.take();
      MICA_TRY(await(d, ring.event(slot), nullptr));
      MICA_TRY(check(d,
                     d.driver->memcpy_async(ring.slot(slot), pointer(src + i * ring.slot_bytes()),
                                            piece_bytes(i), cudaMemcpyDeviceToHost, d.stream),
                     "copy from the device"));
      MICA_TRY(check(d, d.driver->event_record(ring.event(slot), d.stream), "record an event"));
      ++i;
      continue;
    }
    const uint32_t slot = slots[out % Ring::kSlots];
    MICA_TRY(await(d, ring.event(slot), nullptr));
    std::memcpy(static_cast<char*>(dst) + out * ring.slot_bytes(), ring.slot(slot),
                piece_bytes(out));
    ++out;
  }
  return MICA_OK;
}

mica_status scratch(Device& d, uint64_t bytes, uint64_t* out_address) {
  *out_address = d.scratch;
  if (bytes <= d.scratch_bytes) return MICA_OK;
  MICA_TRY(drain(d));
  d.driver->free(pointer(d.scratch));
  d.scratch = d.scratch_bytes = 0;
  void* p = nullptr;
  MICA_TRY(check(d, d.driver->malloc(&p, bytes), "get memory for packing"));
  *out_address = d.scratch = reinterpret_cast<uint64_t>(p);
  d.scratch_bytes = bytes;
  return MICA_OK;
}

}  // namespace mica::cuda
