// The watching backend: everything is passed through; buffers get a tail of guard bytes.
#include "tests/conformance/guard.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

namespace mica::conformance {
namespace {

constexpr uint64_t kGuardBytes = 4096;
constexpr unsigned char kGuard = 0xa5;
constexpr unsigned char kNan = 0xff;  // all ones are NaN in F32, F16, BF16

struct State {
  const mica_backend* inner = nullptr;
  std::map<mica_b_buffer*, uint64_t> buffers;  // their bytes without the guard
  std::map<mica_b_plan*, mica_b_buffer*> arenas;
  std::map<mica_b_buffer*, bool> filled;  // KV storage that holds NaN already
  bool damaged = false;
};
State state;  // a test program's own; the backend table has no user pointer

mica_status fill(mica_b_buffer* buffer, uint64_t offset, uint64_t bytes, unsigned char value) {
  const std::vector<unsigned char> data(std::min<uint64_t>(bytes, 1 << 20), value);
  for (uint64_t at = 0; at < bytes; at += data.size()) {
    const uint64_t n = std::min<uint64_t>(data.size(), bytes - at);
    const mica_status status = state.inner->buffer_write(buffer, offset + at, data.data(), n);
    if (status != MICA_OK) return status;
  }
  return MICA_OK;
}

void check_guard(mica_b_buffer* buffer, uint64_t bytes) {
  unsigned char tail[kGuardBytes];
  if (state.inner->buffer_read(buffer, bytes, tail, kGuardBytes) != MICA_OK) return;
  for (const unsigned char c : tail) state.damaged |= c != kGuard;
}

mica_status buffer_create(mica_b_device* device, uint64_t bytes, mica_b_buffer** out) {
  const mica_status status = state.inner->buffer_create(device, bytes + kGuardBytes, out);
  if (status != MICA_OK) return status;
  state.buffers[*out] = bytes;
  return fill(*out, bytes, kGuardBytes, kGuard);
}

void buffer_free(mica_b_buffer* buffer) {
  check_guard(buffer, state.buffers[buffer]);
  state.buffers.erase(buffer);
  state.filled.erase(buffer);
  state.inner->buffer_free(buffer);
}

mica_status compile(mica_b_device* device, const mica_b_partition* partition,
                    mica_b_buffer* const* buffers, mica_b_plan** out) {
  const mica_status status = state.inner->compile(device, partition, buffers, out);
  if (status != MICA_OK) return status;
  state.arenas[*out] = buffers[0];
  for (uint32_t i = 0; i < partition->n_values; ++i) {
    const mica_b_value& v = partition->values[i];
    if (v.storage != MICA_B_STATE || state.filled[buffers[v.buffer]]) continue;
    state.filled[buffers[v.buffer]] = true;
    if (fill(buffers[v.buffer], 0, state.buffers[buffers[v.buffer]], kNan) != MICA_OK)
      return MICA_INTERNAL;
  }
  return MICA_OK;
}

mica_status submit(mica_b_plan* plan) {
  mica_b_buffer* arena = state.arenas[plan];
  const mica_status status = fill(arena, 0, state.buffers[arena], kNan);
  return status == MICA_OK ? state.inner->submit(plan) : status;
}

mica_status wait(mica_b_plan* plan) {
  const mica_status status = state.inner->wait(plan);
  for (const auto& [buffer, bytes] : state.buffers) check_guard(buffer, bytes);
  return status;
}

void plan_release(mica_b_plan* plan) {
  state.arenas.erase(plan);
  state.inner->plan_release(plan);
}

}  // namespace

const mica_backend* guarded(const mica_backend* inner) {
  static mica_backend table;
  state.inner = inner;
  table = *inner;
  table.buffer_create = buffer_create;
  table.buffer_free = buffer_free;
  table.compile = compile;
  table.submit = submit;
  table.wait = wait;
  table.plan_release = plan_release;
  return &table;
}

bool guards_damaged() { return std::exchange(state.damaged, false); }

}  // namespace mica::conformance
