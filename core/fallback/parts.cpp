// Memory of a plan in parts, and running it.
#include <numeric>

#include "core/plan/session.h"

namespace mica {
namespace {

// --- Memory -------------------------------------------------------------------------------------

// Rows unpacked from the session's device, packed for the other: bit by bit the same weight. The
// weights' own device is the same one opened by a context that may be at work in another thread.
mica_status copy_rows(const mica_device* from, WeightCopy& copy, void* staging, uint64_t step) {
  const WeightEntry& e = copy.weights->entries[copy.entry];
  const mica_device* to = copy.device;
  const uint64_t rows = e.rows();
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

mica_status fill_copy(const mica_device* from, WeightCopy& copy) {
  const WeightEntry& e = copy.weights->entries[copy.entry];
  MICA_TRY(copy.buffer.create(copy.device, copy.value.bytes, "a weight for fallback"));
  const uint64_t granule = std::lcm(uint64_t{e.granule_rows}, uint64_t{copy.granule_rows});
  Vec<char> staging(copy.device->allocator());
  if (!staging.resize(static_cast<size_t>(e.chunk_rows(granule) * e.row_bytes())))
    return copy.device->error().out_of_memory("staging for weights");
  return copy_rows(from, copy, staging.data(), e.chunk_rows(granule));
}

mica_status allocate_island(const mica_device* own, Island& island) {
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
      const mica_status status = fill_copy(own, *copy);
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

// Live bytes of a value between the plan's memory and the island's, through the host.
mica_status carry(const mica_plan& p, const Segment& segment, Island& island, size_t i) {
  const mica_b_value& ours = p.values[island.flows[i].origin];
  const uint64_t bytes = live_bytes(p, ours);
  if (bytes == 0) return MICA_OK;
  struct End {
    mica_device* device;
    mica_b_buffer* buffer;
    uint64_t offset;
  } from{p.session->device, home_of(p, ours).handle(), ours.offset},
      to{island.device, island.arena.handle(), island.values[i].offset};
  if (island.flows[i].made) std::swap(from, to);
  MICA_TRY(
      told(p, segment, from.device,
           from.device->backend->buffer_read(from.buffer, from.offset, island.staging, bytes)));
  return told(p, segment, to.device,
              to.device->backend->buffer_write(to.buffer, to.offset, island.staging, bytes));
}

mica_status carry_all(const mica_plan& p, const Segment& segment, Island& island, bool made) {
  for (size_t i = 1; i < island.flows.size(); ++i)
    if (island.flows[i].moves && island.flows[i].made == made)
      MICA_TRY(carry(p, segment, island, i));
  return MICA_OK;
}

mica_status write_island_extents(const mica_plan& p, const Segment& segment, Island& island) {
  mica_device* d = island.device;
  for (size_t i = 1; i < island.extents.size(); ++i) {
    const auto word = static_cast<int32_t>(extent_value(p, static_cast<uint32_t>(i)));
    MICA_TRY(told(p, segment, d,
                  d->backend->buffer_write(island.step.handle(), island.extents[i].offset, &word,
                                           sizeof word)));
  }
  return MICA_OK;
}

Island* island_of(const mica_plan& p, const Segment& segment) {
  return segment.island != 0 ? p.islands[segment.island - 1] : nullptr;
}

mica_status begin(const mica_plan& p, const Segment& segment) {
  mica_device* own = p.session->device;
  if (own->context->cancelled()) return MICA_CANCELLED;
  Island* island = island_of(p, segment);
  if (island == nullptr)
    return told(p, segment, own, own->backend->submit(segment.compiled.handle));
  MICA_TRY(carry_all(p, segment, *island, false));
  MICA_TRY(write_island_extents(p, segment, *island));
  return told(p, segment, island->device, island->device->backend->submit(island->handle));
}

mica_status finish(const mica_plan& p, const Segment& segment) {
  mica_device* own = p.session->device;
  Island* island = island_of(p, segment);
  if (island == nullptr) return told(p, segment, own, own->backend->wait(segment.compiled.handle));
  MICA_TRY(told(p, segment, island->device, island->device->backend->wait(island->handle)));
  return carry_all(p, segment, *island, true);
}

}  // namespace

void drop_weight_copy(mica_session* s, WeightCopy* copy) {
  if (--copy->n_users != 0) return;
  for (WeightCopy*& c : s->copies)
    if (c == copy) c = s->copies.back();
  s->copies.pop();
  destroy(s->allocator(), copy);
}

mica_status compile_parts(mica_plan& p, mica_b_buffer* const* buffers) {
  const mica_device* own = p.session->device;
  for (Segment& segment : p.segments)
    if (segment.island == 0)
      MICA_TRY(
          own->backend->compile(own->handle, &segment.partition, buffers, &segment.compiled.next));
  for (Island* island : p.islands)
    if (!p.allocated) MICA_TRY(allocate_island(own, *island));
  return MICA_OK;
}

void settle_parts(mica_plan& p, bool adopt) {
  for (Segment& segment : p.segments) segment.compiled.settle(*p.session->device, adopt);
  for (Island* island : p.islands)
    if (!adopt && !p.allocated) release_island(*island);
}

void release_parts(mica_plan& p) {
  for (Segment& segment : p.segments) segment.compiled.settle(*p.session->device, true);
  for (Island* island : p.islands) {
    release_island(*island);
    for (WeightCopy* copy : island->weights) drop_weight_copy(p.session, copy);
    destroy(p.session->allocator(), island);
  }
}

uint64_t parts_reserve(const mica_plan& p) {
  const mica_device* own = p.session->device;
  uint64_t bytes = 0;
  for (const Segment& segment : p.segments)
    if (segment.island == 0) bytes += own->backend->reserve(own->handle, &segment.partition);
  return bytes;
}

uint64_t fallback_bytes(const mica_session* s) {
  uint64_t bytes = 0;
  for (const mica_device* d : s->fallback) {
    const auto reserve = [d](const mica_b_partition* partition) {
      return d->backend->reserve != nullptr ? d->backend->reserve(d->handle, partition) : 0;
    };
    bool used = false;
    for (const mica_plan* p : s->plans)
      for (const Island* island : p->islands) {
        if (island->device != d) continue;
        bytes += island->arena_bytes + island->step_bytes() + island->staging_bytes +
                 reserve(&island->partition);
        used = true;
      }
    if (used) bytes += reserve(nullptr);
  }
  for (const WeightCopy* copy : s->copies) bytes += copy->value.bytes;
  return bytes;
}

const mica_device* lost_fallback(const mica_session* s) {
  for (const mica_device* d : s->fallback)
    if (d->lost) return d;
  return nullptr;
}

mica_status submit_parts(mica_plan& p) {
  for (size_t i = 0; i < p.segments.size(); ++i) {
    MICA_TRY(begin(p, p.segments[i]));
    if (i + 1 < p.segments.size()) MICA_TRY(finish(p, p.segments[i]));
  }
  return MICA_OK;
}

mica_status wait_parts(mica_plan& p) { return finish(p, p.segments.back()); }

}  // namespace mica
