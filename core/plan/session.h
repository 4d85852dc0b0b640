// A session: plans, their arenas, the step block and the storage of a cache.
#pragma once
#include "core/plan/plan.h"

namespace mica {

// A place in the step block: an input, an extent's value, or a table of the cache.
struct StepPlace {
  explicit StepPlace(const mica_allocator& a) : name(a) {}
  Text name;           // of tables none: no caller's name finds them
  uint32_t table = 0;  // 1 + which of the cache's, 0: none
  mica_dtype dtype = MICA_I32;
  uint64_t bytes = 0, offset = 0;            // in the step block of the next allocate
  uint64_t held_bytes = 0, held_offset = 0;  // in the one there is; 0 bytes: not in it
  bool is_extent = false;
  int64_t max = 0;     // of extents: the largest of all plans
  int64_t value = -1;  // of extents: -1 while never set
};

}  // namespace mica

struct mica_session : mica::SessionParts {
  explicit mica_session(mica_device* d)
      : SessionParts(d->allocator()), device(mica::retain(d)), variant(d->allocator()),
        plans(d->allocator()), places(d->allocator()), input_names(d->allocator()),
        extent_names(d->allocator()), table_places(d->allocator()), arenas(d->allocator()) {}
  ~mica_session();

  mica_device* device;
  mica_kv_cache* cache = nullptr;  // retained; the session is its owner
  mica_session_params params{};
  mica::Text variant;
  mica::Vec<mica_plan*> plans;
  mica::Vec<mica::StepPlace> places;
  mica::NameMap input_names, extent_names;  // of the places, and which place each table has
  mica::Vec<uint32_t> table_places;         // 1 + index, 0: none
  mica::Buffer step;
  uint64_t step_bytes = 0;         // of the next one
  mica::Vec<mica::Buffer> arenas;  // one an allocate that had new plans
  mica::Buffer kv;
  mica_plan* running = nullptr;     // submitted and not waited for
  const mica_plan* last = nullptr;  // whose values are in the arenas: its step was the last

  const mica_allocator& allocator() const { return device->allocator(); }
  mica::Error& error() const { return device->error(); }
};

namespace mica {
// MICA_OK unless a device of the session is lost or a step is in flight.
mica_status session_ready(const mica_session* session);
// Waits for the plan's step, whatever becomes of it.
mica_status wait_step(mica_plan& plan);
StepPlace* find_place(mica_session* session, const char* name, bool is_extent);
// Of the step: the tokens reserved if it is the cache's extent, else what was set, or the maximum
// while nothing was.
int64_t extent_value(const mica_plan& plan, uint32_t extent);
}  // namespace mica
