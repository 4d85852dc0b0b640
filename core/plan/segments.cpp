// Islands' memory, and running a plan's segments.
#include <numeric>

#include "core/plan/fallback.h"
#include "core/plan/session.h"

namespace mica {
namespace {

constexpr uint64_t kChunkBytes = 4u << 20;  // of a weight, staged at a time

// --- Memory -------------------------------------------------------------------------------------

// The device's rows, unpacked, packed for the other: bit by bit the same weight.
mica_status copy_rows(WeightCopy& copy, void* staging, uint64_t step, uint64_t row_bytes) {
  const WeightEntry& e = copy.weights->entries[copy.entry];
  mica_device* from = copy.weights->device;
  mica_device* to = copy.device;
  const uint64_t rows = e.plain_bytes / row_bytes;
  for (uint64_t first = 0; first < rows; first += step) {
    const uint64_t n = rows - first < step ? rows - first : step;
    if (to->context->cancelled())
      return to->error().fail(MICA_CANCELLED, "allocating was cancelled");
    MICA_TRY(from->backend->weight_unpack(from->handle, &e.value, copy.weights->buffer.handle(),
                                          staging, first, n));
    MICA_TRY(
        to->backend->weight_pack(to->handle, &copy.value, copy.buffer.handle(), staging, first, n));
  }
  return MICA_OK;
}

mica_status fill_copy(WeightCopy& copy) {
  const WeightEntry& e = copy.weights->entries[copy.entry];
  MICA_TRY(copy.buffer.create(copy.device, copy.value.bytes, "a weight for fallback"));
  const auto rows = static_cast<uint64_t>(e.desc.dim[1] * e.desc.dim[2] * e.desc.dim[3]);
  const uint64_t row_bytes = e.plain_bytes / rows;
  const uint64_t granule = std::lcm(uint64_t{e.granule_rows}, uint64_t{copy.granule_rows});
  const uint64_t wanted = kChunkBytes / row_bytes / granule * granule;
  const uint64_t step = wanted < granule ? granule : wanted;
  const auto bytes = static_cast<size_t>((step < rows ? step : rows) * row_bytes);
  const mica_allocator& a = copy.device->allocator();
  void* staging = allocate(a, bytes);
  if (staging == nullptr) return copy.device->error().out_of_memory("staging for weights");
  const mica_status status = copy_rows(copy, staging, step, row_bytes);
  deallocate(a, staging, bytes);
  return status;
}

mica_status allocate_island(Island& island) {
  mica_device* d = island.device;
  MICA_TRY(island.arena.create(d, island.arena_bytes, "the arena of a fallback"));
  MICA_TRY(island.step.create(d, island.step_bytes(), "the step block of a fallback"));
  island.staging = allocate(d->allocator(), static_cast<size_t>(island.staging_bytes));
  Vec<mica_b_buffer*> buffers(d->allocator());
  if (island.staging == nullptr || !buffers.push(island.arena.handle()) ||
      !buffers.push(island.step.handle()))
    return d->error().out_of_memory("fallback");
  for (; island.n_ready < island.weights.size(); ++island.n_ready) {
    WeightCopy* copy = island.weights[island.n_ready];
    if (copy->n_ready == 0) {
      const mica_status status = fill_copy(*copy);
      if (status != MICA_OK) {
        copy->buffer.reset();
        return status;
      }
    }
    ++copy->n_ready;
    if (!buffers.push(copy->buffer.handle())) {
      ++island.n_ready;
      return d->error().out_of_memory("fallback");
    }
  }
  return d->backend->compile(d->handle, &island.partition, buffers.data(), &island.handle);
}

void release_island(Island& island) {
  if (island.handle != nullptr) island.device->backend->plan_release(island.handle);
  island.handle = nullptr;
  deallocate(island.device->allocator(), island.staging, static_cast<size_t>(island.staging_bytes));
  island.staging = nullptr;
  for (; island.n_ready > 0; --island.n_ready) {
    WeightCopy* copy = island.weights[island.n_ready - 1];
    if (--copy->n_ready == 0) copy->buffer.reset();
  }
  island.arena.reset();
  island.step.reset();
}

// --- Steps --------------------------------------------------------------------------------------

// What of a value is live; all of it when the live rows are not its first bytes.
uint64_t live_bytes(const mica_plan& p, const mica_b_value& v) {
  if (v.extent == MICA_B_NONE) return v.bytes;
  const int64_t live = extent_value(p, v.extent);
  if (live == 0) return 0;
  const auto dead = static_cast<uint64_t>((v.dim[v.rank - 1] - live) * v.stride[v.rank - 1]);
  return dead < v.bytes ? v.bytes - dead : v.bytes;
}

const Buffer& home_of(const mica_plan& p, const mica_b_value& v) {
  return v.storage == MICA_B_STEP ? p.session->step : p.session->arenas[p.arena];
}

// A device that is lost is marked; the sentence names the island's first node.
mica_status told(const mica_plan& p, const Segment& segment, mica_device* d, mica_status status) {
  if (status == MICA_OK) return status;
  if (status == MICA_DEVICE_LOST) d->lost = true;
  if (segment.island == 0 || status == MICA_CANCELLED) return status;
  Error& error = p.session->error();
  char why[300];
  Writer(why, sizeof why).put(error.code() == status ? error.text() : mica_status_text(status));
  const mica_b_node& node = p.nodes[p.units[segment.first].node];
  return error.fail(status, find_op(node.op)->name, " ", quoted(node.name), ", a fallback on ",
                    d->backend->name, ", failed: ", static_cast<const char*>(why));
}

mica_status carry_in(const mica_plan& p, const Segment& segment, Island& island) {
  mica_device* own = p.session->device;
  mica_device* d = island.device;
  for (size_t i = 1; i < island.values.size(); ++i) {
    if (!island.flows[i].moves || island.flows[i].made) continue;
    const mica_b_value& from = p.values[island.flows[i].origin];
    const uint64_t bytes = live_bytes(p, from);
    if (bytes == 0) continue;
    MICA_TRY(told(
        p, segment, own,
        own->backend->buffer_read(home_of(p, from).handle(), from.offset, island.staging, bytes)));
    MICA_TRY(told(p, segment, d,
                  d->backend->buffer_write(island.arena.handle(), island.values[i].offset,
                                           island.staging, bytes)));
  }
  for (size_t i = 1; i < island.extents.size(); ++i) {
    const auto word = static_cast<int32_t>(extent_value(p, static_cast<uint32_t>(i)));
    MICA_TRY(told(p, segment, d,
                  d->backend->buffer_write(island.step.handle(), island.extents[i].offset, &word,
                                           sizeof word)));
  }
  return MICA_OK;
}

mica_status carry_out(const mica_plan& p, const Segment& segment, Island& island) {
  mica_device* own = p.session->device;
  mica_device* d = island.device;
  for (size_t i = 1; i < island.values.size(); ++i) {
    if (!island.flows[i].moves || !island.flows[i].made) continue;
    const mica_b_value& to = p.values[island.flows[i].origin];
    const uint64_t bytes = live_bytes(p, to);
    if (bytes == 0) continue;
    MICA_TRY(told(p, segment, d,
                  d->backend->buffer_read(island.arena.handle(), island.values[i].offset,
                                          island.staging, bytes)));
    MICA_TRY(told(
        p, segment, own,
        own->backend->buffer_write(home_of(p, to).handle(), to.offset, island.staging, bytes)));
  }
  return MICA_OK;
}

mica_status begin(const mica_plan& p, const Segment& segment) {
  Island* island = segment.island != 0 ? p.islands[segment.island - 1] : nullptr;
  mica_device* d = island != nullptr ? island->device : p.session->device;
  if (p.session->device->context->cancelled()) return MICA_CANCELLED;
  if (island != nullptr) MICA_TRY(carry_in(p, segment, *island));
  mica_b_plan* handle = island != nullptr ? island->handle : segment.handle;
  return told(p, segment, d, d->backend->submit(handle));
}

mica_status finish(const mica_plan& p, const Segment& segment) {
  Island* island = segment.island != 0 ? p.islands[segment.island - 1] : nullptr;
  mica_device* d = island != nullptr ? island->device : p.session->device;
  mica_b_plan* handle = island != nullptr ? island->handle : segment.handle;
  MICA_TRY(told(p, segment, d, d->backend->wait(handle)));
  return island != nullptr ? carry_out(p, segment, *island) : MICA_OK;
}

}  // namespace

void drop_weight_copy(mica_session* s, WeightCopy* copy) {
  if (--copy->n_users != 0) return;
  for (WeightCopy*& c : s->copies)
    if (c == copy) c = s->copies.back();
  s->copies.pop();
  destroy(s->allocator(), copy);
}

mica_status allocate_islands(mica_plan& p) {
  for (Island* island : p.islands) {
    const mica_status status = allocate_island(*island);
    if (status == MICA_OK) continue;
    release_islands(p);
    return status;
  }
  return MICA_OK;
}

void release_islands(mica_plan& p) {
  for (Island* island : p.islands) release_island(*island);
}

uint64_t fallback_bytes(const mica_session* s) {
  uint64_t bytes = 0;
  for (const mica_plan* p : s->plans)
    for (const Island* island : p->islands)
      bytes += island->arena_bytes + island->step_bytes() + island->staging_bytes;
  for (const WeightCopy* copy : s->copies) bytes += copy->value.bytes;
  return bytes;
}

mica_status submit_segments(mica_plan& p) {
  for (size_t i = 0; i < p.segments.size(); ++i) {
    MICA_TRY(begin(p, p.segments[i]));
    if (i + 1 < p.segments.size()) MICA_TRY(finish(p, p.segments[i]));
  }
  return MICA_OK;
}

mica_status wait_last_segment(mica_plan& p) { return finish(p, p.segments.back()); }

}  // namespace mica
