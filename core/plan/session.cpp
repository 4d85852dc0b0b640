// Sessions: compiling, the memory they need, allocating it, and the step block.
#include "core/plan/session.h"

#include <algorithm>

#include "core/kv/kv_cache.h"

using mica::Error;
using mica::quoted;
using mica::StepPlace;
using mica::Writer;

mica_plan::~mica_plan() {
  mica::release_parts(*this);
  compiled.settle(*session->device, true);
  for (mica_weights* w : weights) mica_weights_release(w);
}

mica_session::~mica_session() {
  // The backend must not write to what is freed below.
  if (running != nullptr) (void)mica::wait_step(*running);
  for (mica_plan* p : plans) mica::destroy(allocator(), p);
  plans.clear();
  step.reset();
  arenas.clear();
  if (cache != nullptr && cache->owner == this) {
    cache->pending = cache->in_flight = cache->is_marked = false;
    // What its tables name goes with the pages.
    if (kv.handle() != nullptr) (void)mica_kv_seq_rm(cache, MICA_KV_ALL_SEQS, 0, -1);
    cache->owner = nullptr;
  }
  kv.reset();
  mica_kv_cache_release(cache);
}

namespace mica {

mica_status session_ready(const mica_session* s) {
  if (s->device->lost)
    return s->error().fail(MICA_DEVICE_LOST, "the device was lost; release what is on it");
  if (const mica_device* d = lost_fallback(s))
    return s->error().fail(MICA_DEVICE_LOST, "the fallback device ", d->backend->name,
                           " was lost; release what is on it");
  if (s->running != nullptr)
    return s->error().fail(MICA_BUSY, "a step of this session is running; wait for it first");
  return MICA_OK;
}

StepPlace* find_place(mica_session* s, const char* name, bool is_extent) {
  const NameMap& names = is_extent ? s->extent_names : s->input_names;
  const uint32_t i = names.find(name, [s](uint32_t k) { return s->places[k].name.c_str(); });
  return i != NameMap::kNone ? &s->places[i] : nullptr;
}

namespace {

// Makes a place findable. False: out of memory.
bool note_place(mica_session* s, uint32_t i) {
  const StepPlace& place = s->places[i];
  if (place.table != 0) s->table_places[place.table - 1] = i + 1;
  if (place.table != 0) return true;
  return (place.is_extent ? s->extent_names : s->input_names)
      .insert(place.name.c_str(), i, [s](uint32_t k) { return s->places[k].name.c_str(); });
}

// Finds the place of a table, or by name of an extent or input, or adds it; `out` gets its index.
mica_status take_place(mica_session* s, const char* name, StepPlace fresh, uint32_t& out) {
  const StepPlace* known = nullptr;
  if (fresh.table == 0) {
    known = find_place(s, name, fresh.is_extent);
  } else if (const uint32_t place = s->table_places[fresh.table - 1]; place != 0) {
    known = &s->places[place - 1];
  }
  out = static_cast<uint32_t>(known != nullptr ? known - s->places.data() : s->places.size());
  if (known != nullptr && known->dtype != fresh.dtype)
    return s->error().invalid("input ", quoted(name),
                              " has another dtype in another plan of the session");
  if (known != nullptr) return MICA_OK;
  return fresh.name.assign(name) && s->places.push(std::move(fresh)) && note_place(s, out)
             ? MICA_OK
             : s->error().out_of_memory("session");
}

// Makes the plan's places as large as it wants them; offsets are given by lay_out.
void widen_places(mica_session* s, const mica_plan& p) {
  for (size_t i = 1; i < p.extents.size(); ++i) {
    StepPlace& place = s->places[p.extent_places[i]];
    place.bytes = sizeof(int32_t);
    place.max = std::max(place.max, p.extents[i].max);
  }
  for (const PlanInput& in : p.inputs) {
    if (in.place == kNoPlace) continue;
    StepPlace& place = s->places[in.place];
    place.bytes = std::max(place.bytes, p.values[in.value].bytes);
  }
}

// The bytes of the step block, which every place must fit in.
constexpr uint64_t kMostStepBytes = uint64_t{1} << 62;

mica_status add_places(mica_session* s, mica_plan& p) {
  for (size_t i = 1; i < p.extents.size(); ++i) {
    StepPlace place(s->allocator());
    place.is_extent = true;
    place.table = p.extent_tables[i];
    MICA_TRY(take_place(s, p.name_at(p.extent_names[i]), std::move(place), p.extent_places[i]));
  }
  for (PlanInput& in : p.inputs) {
    if (in.place == kNoPlace) continue;
    StepPlace place(s->allocator());
    place.table = in.table;
    place.dtype = p.values[in.value].dtype;
    MICA_TRY(take_place(s, p.name_at(in.name), std::move(place), in.place));
  }
  widen_places(s, p);
  uint64_t bytes = 0;
  for (const StepPlace& place : s->places)
    if (!checked_add(bytes, place.bytes, bytes) || bytes > kMostStepBytes)
      return s->error().fail(MICA_OUT_OF_MEMORY, "the inputs of the plans are too large in all");
  return MICA_OK;
}

// Gives every place its offset in the step block that the next allocate makes.
void lay_out(mica_session* s) {
  uint64_t end = 0;
  for (StepPlace& place : s->places) {
    place.offset = align_up(end, place.is_extent ? uint64_t{4} : kPlaceAlign);
    end = place.offset + place.bytes;
  }
  s->step_bytes = std::max(align_up(end, kPlaceAlign), kPlaceAlign);
}

// What a compile that fails leaves: the first `n` places, as the plans that stay want them.
void restore_places(mica_session* s, size_t n) {
  while (s->places.size() > n) s->places.pop();
  s->input_names.clear();
  s->extent_names.clear();
  for (uint32_t& i : s->table_places) i = 0;
  for (uint32_t i = 0; i < n; ++i) {
    s->places[i].bytes = 0;
    s->places[i].max = 0;
    (void)note_place(s, i);  // there is memory: it was there
  }
  for (const mica_plan* p : s->plans) widen_places(s, *p);
  lay_out(s);
}

// Points the plan's inputs and extents at their places, in the step block that is allocated or in
// the next one. An input's views move with it.
void bind_places(mica_session* s, mica_plan& p, bool held) {
  const auto offset = [&](uint32_t i) {
    return held ? s->places[i].held_offset : s->places[i].offset;
  };
  for (size_t i = 1; i < p.extents.size(); ++i) p.extents[i].offset = offset(p.extent_places[i]);
  for (const PlanStepValue& v : p.step_values) {
    const uint32_t place = p.inputs[v.input].place;
    if (place != kNoPlace) p.values[v.value].offset = offset(place) + v.offset;
  }
}

// Of the arena that the plans added since the last allocate need; 0: there are none.
uint64_t new_arena_bytes(const mica_session* s) {
  uint64_t bytes = 0;
  for (const mica_plan* p : s->plans)
    if (!p->allocated) bytes = std::max({bytes, p->arena_bytes, kPlaceAlign});
  return bytes;
}

bool weights_counted(const mica_session* s, size_t i_plan, size_t i_weights) {
  const mica_weights* w = s->plans[i_plan]->weights[i_weights];
  for (size_t i = 0; i <= i_plan; ++i)
    for (size_t k = 0; k < (i == i_plan ? i_weights : s->plans[i]->weights.size()); ++k)
      if (s->plans[i]->weights[k] == w) return true;
  return false;
}

// Beside buffers: for the plans, and, if it is not there yet, for any of them.
uint64_t reserve_bytes(const mica_session* s, bool first) {
  const mica_device& d = *s->device;
  if (d.backend->reserve == nullptr || s->plans.empty()) return 0;
  uint64_t bytes = first ? d.backend->reserve(d.handle, nullptr) : 0;
  for (const mica_plan* p : s->plans)
    bytes += p->in_parts() ? parts_reserve(*p) : d.backend->reserve(d.handle, &p->partition);
  return bytes;
}

// The budget is for all of the session; what the device has free, for what is not there yet.
mica_status check_room(mica_session* s) {
  const uint64_t budget = s->device->context->memory_budget_bytes, free = free_bytes(s->device);
  mica_memory need{};
  MICA_TRY(mica_session_memory(s, &need));
  const bool over_budget = budget != 0 && need.total_bytes > budget;
  const uint64_t more =
      saturating_add(new_arena_bytes(s) + need.step_bytes + reserve_bytes(s, s->arenas.empty()),
                     s->kv.handle() == nullptr ? need.kv_bytes : uint64_t{0});
  if (!over_budget && (free == 0 || more <= free)) return MICA_OK;
  char parts[200];
  Writer w(parts, sizeof parts);
  w.put(" (weights ", Bytes{need.weights_bytes}, ", KV cache ", Bytes{need.kv_bytes});
  w.put(", activations ", Bytes{need.activations_bytes});
  if (need.reserve_bytes != 0) w.put(", reserve ", Bytes{need.reserve_bytes});
  if (need.fallback_bytes != 0) w.put(", fallback ", Bytes{need.fallback_bytes});
  const auto refuse = [&](auto... sentence) {
    return s->error().fail(MICA_OVER_BUDGET, "the session needs ", sentence...,
                           "; lower the context, the batch or the KV dtype");
  };
  if (over_budget)
    return refuse(Bytes{need.total_bytes}, parts, "), the budget is ", Bytes{budget});
  return refuse(Bytes{more}, " beside the weights", parts, "), ", s->device->backend->name, " has ",
                Bytes{free}, " free");
}

// What an allocate makes beside the old, until all of it exists.
struct Fresh {
  Buffer arena, step, kv;
};

mica_status backend_compile(mica_session* s, mica_plan& p, const Fresh& fresh) {
  const Buffer& arena = p.allocated ? s->arenas[p.arena] : fresh.arena;
  const Buffer& kv = s->kv.handle() != nullptr ? s->kv : fresh.kv;
  Vec<mica_b_buffer*> buffers(s->allocator());
  bool ok = buffers.push(arena.handle()) && buffers.push(fresh.step.handle());
  for (const mica_weights* w : p.weights) ok = ok && buffers.push(w->buffer.handle());
  if (p.cache != nullptr) ok = ok && buffers.push(kv.handle());
  if (!ok) return s->error().out_of_memory("session");
  if (p.in_parts()) return compile_parts(p, buffers.data());
  return s->device->backend->compile(s->device->handle, &p.partition, buffers.data(),
                                     &p.compiled.next);
}

mica_status make_fresh(mica_session* s, Fresh& fresh) {
  MICA_TRY(fresh.arena.create(s->device, new_arena_bytes(s), "the activations' arena"));
  if (s->cache != nullptr && s->kv.handle() == nullptr)
    MICA_TRY(fresh.kv.create(s->device, s->cache->bytes, "the KV cache"));
  MICA_TRY(fresh.step.create(s->device, s->step_bytes, "the step block"));
  // Places only grow: what an old one holds is kept at its new offset, what is new is zero.
  for (const StepPlace& place : s->places)
    if (place.held_bytes != 0)
      MICA_TRY(s->device->backend->buffer_copy(fresh.step.handle(), place.offset, s->step.handle(),
                                               place.held_offset, place.held_bytes));
  for (mica_plan* p : s->plans) MICA_TRY(backend_compile(s, *p, fresh));
  return MICA_OK;
}

mica_status allocate_session(mica_session* s) {
  MICA_TRY(session_ready(s));
  if (new_arena_bytes(s) == 0) return MICA_OK;
  for (const mica_plan* p : s->plans)
    for (const mica_weights* w : p->weights)
      if (!w->loaded) return s->error().invalid("load the weights before allocating");
  MICA_TRY(check_room(s));
  if (!s->arenas.reserve(s->arenas.size() + 1)) return s->error().out_of_memory("session");
  Fresh fresh;
  for (mica_plan* p : s->plans) bind_places(s, *p, false);
  const mica_status status = make_fresh(s, fresh);
  for (mica_plan* p : s->plans) {
    settle_parts(*p, status == MICA_OK);
    p->compiled.settle(*s->device, status == MICA_OK);
  }
  if (status != MICA_OK) {
    for (mica_plan* p : s->plans) bind_places(s, *p, true);
    return status;
  }
  for (mica_plan* p : s->plans) {
    if (!p->allocated) p->arena = static_cast<uint32_t>(s->arenas.size());
    p->allocated = true;
  }
  (void)s->arenas.push(std::move(fresh.arena));
  s->step = std::move(fresh.step);
  for (StepPlace& place : s->places) {
    place.held_bytes = place.bytes;
    place.held_offset = place.offset;
  }
  if (fresh.kv.handle() != nullptr) s->kv = std::move(fresh.kv);
  return MICA_OK;
}

mica_status compile_one(mica_session* s, const mica_graph* graph) {
  if (graph == nullptr) return s->error().null("graph");
  mica_plan* p = create<mica_plan>(s->allocator(), s, s->allocator());
  if (p == nullptr || !s->plans.push(p)) {
    destroy(s->allocator(), p);
    return s->error().out_of_memory("plan");
  }
  MICA_TRY(build_plan(*p, *graph));
  return add_places(s, *p);
}

mica_status check_params(const mica_device* device, const mica_session_params& params) {
  const auto refuse = [&](auto... parts) { return device->error().invalid("session: ", parts...); };
  if (params.struct_size != sizeof(mica_session_params))
    return refuse("struct_size is not of this version");
  const mica_kv_cache* cache = params.cache;
  if (cache != nullptr && cache->device->context != device->context)
    return refuse("the cache is of another context");
  if (cache != nullptr && !same_device(cache->device, device))
    return refuse("the cache is for another device");
  if (cache != nullptr && cache->owner != nullptr)
    return refuse("the cache belongs to another session, which owns its storage");
  return MICA_OK;
}

// The place of an input, when `bytes` at `offset` can be moved to or from it.
mica_status reach(mica_session* s, const char* input, uint64_t offset, uint64_t bytes,
                  const StepPlace** out) {
  if (input == nullptr) return s->error().null("input");
  MICA_TRY(session_ready(s));
  const StepPlace* place = find_place(s, input, false);
  if (place == nullptr)
    return s->error().fail(MICA_NOT_FOUND, "no plan has an input ", quoted(input));
  if (!range_fits(offset, bytes, place->bytes))
    return s->error().invalid("input ", quoted(input), " has ", place->bytes, " bytes; ", bytes,
                              " at ", offset, " do not fit");
  if (place->held_bytes == 0 || !range_fits(offset, bytes, place->held_bytes))
    return s->error().invalid("allocate the session first");
  *out = place;
  return MICA_OK;
}

}  // namespace
}  // namespace mica

extern "C" {

mica_status mica_session_create(mica_device* device, const mica_session_params* params,
                                mica_session** out_session) {
  if (out_session != nullptr) *out_session = nullptr;
  if (device == nullptr) return MICA_INVALID_ARGUMENT;
  if (out_session == nullptr) return device->error().null("out_session");
  const mica_session_params defaults = MICA_SESSION_PARAMS_INIT;
  if (params == nullptr) params = &defaults;
  Error& error = device->error();
  MICA_TRY(mica::check_params(device, *params));
  auto* s = mica::create<mica_session>(device->allocator(), device);
  if (s == nullptr) return error.out_of_memory("session");
  s->params = *params;
  mica_status status = mica::take_fallbacks(*s, *params);
  bool ok = s->variant.assign(params->variant != nullptr ? params->variant : "");
  s->params.variant = s->variant.size() > 0 ? s->variant.c_str() : nullptr;
  if (params->cache != nullptr) {
    s->cache = mica::retain(params->cache);
    s->cache->owner = s;
    ok = ok && s->table_places.resize(mica::kv_n_tables(s->cache));
  }
  if (status == MICA_OK && !ok) status = error.out_of_memory("session");
  if (status != MICA_OK) {
    mica_session_release(s);
    return status;
  }
  *out_session = s;
  return MICA_OK;
}

void mica_session_release(mica_session* session) {
  if (session == nullptr) return;
  mica_device* device = session->device;
  mica::destroy(device->allocator(), session);
  mica_device_release(device);
}

mica_status mica_session_compile(mica_session* session, uint32_t n_graphs,
                                 mica_graph* const* graphs, mica_plan** out_plans) {
  for (uint32_t i = 0; out_plans != nullptr && i < n_graphs; ++i) out_plans[i] = nullptr;
  if (session == nullptr) return MICA_INVALID_ARGUMENT;
  if (graphs == nullptr || out_plans == nullptr || n_graphs == 0)
    return session->error().invalid(
        "compile: graphs or out_plans are NULL, or there are no graphs");
  MICA_TRY(mica::session_ready(session));
  const size_t n_plans = session->plans.size(), n_places = session->places.size();
  for (uint32_t i = 0; i < n_graphs; ++i) {
    const mica_status status = mica::compile_one(session, graphs[i]);
    if (status == MICA_OK) continue;
    while (session->plans.size() > n_plans) {  // all or none
      mica::destroy(session->allocator(), session->plans.back());
      session->plans.pop();
    }
    mica::restore_places(session, n_places);
    return status;
  }
  for (uint32_t i = 0; i < n_graphs; ++i) out_plans[i] = session->plans[n_plans + i];
  mica::lay_out(session);
  return MICA_OK;
}

mica_status mica_session_memory(const mica_session* session, mica_memory* out_memory) {
  if (session == nullptr) return MICA_INVALID_ARGUMENT;
  if (out_memory == nullptr) return session->error().null("out_memory");
  mica_memory m{};
  for (size_t i = 0; i < session->plans.size(); ++i) {
    const mica_plan* p = session->plans[i];
    for (size_t k = 0; k < p->weights.size(); ++k)
      if (!mica::weights_counted(session, i, k))
        m.weights_bytes = mica::saturating_add(m.weights_bytes, p->weights[k]->bytes);
    m.workspace_bytes = std::max(m.workspace_bytes, p->workspace_bytes);
  }
  for (const mica::Buffer& b : session->arenas) m.activations_bytes += b.bytes();
  m.activations_bytes += mica::new_arena_bytes(session);
  if (session->cache != nullptr) m.kv_bytes = session->cache->bytes;
  m.step_bytes = session->plans.empty() ? 0 : session->step_bytes;
  m.fallback_bytes = mica::fallback_bytes(session);
  m.reserve_bytes = mica::reserve_bytes(session, true);
  for (const uint64_t part : {m.weights_bytes, m.kv_bytes, m.activations_bytes, m.step_bytes,
                              m.reserve_bytes, m.fallback_bytes})
    m.total_bytes = mica::saturating_add(m.total_bytes, part);
  *out_memory = m;
  return MICA_OK;
}

mica_status mica_session_allocate(mica_session* session) {
  return session == nullptr ? MICA_INVALID_ARGUMENT : mica::allocate_session(session);
}

mica_status mica_session_set(mica_session* session, const char* input, uint64_t offset,
                             const void* data, uint64_t bytes) {
  if (session == nullptr) return MICA_INVALID_ARGUMENT;
  if (data == nullptr) return session->error().null("data");
  const StepPlace* place = nullptr;
  MICA_TRY(mica::reach(session, input, offset, bytes, &place));
  return session->device->backend->buffer_write(session->step.handle(), place->held_offset + offset,
                                                data, bytes);
}

mica_status mica_session_set_extent(mica_session* session, const char* extent, int64_t value) {
  if (session == nullptr) return MICA_INVALID_ARGUMENT;
  if (extent == nullptr) return session->error().null("extent");
  MICA_TRY(mica::session_ready(session));
  StepPlace* place = mica::find_place(session, extent, true);
  if (place == nullptr)
    return session->error().fail(MICA_NOT_FOUND, "no plan has an extent ", quoted(extent));
  if (value < 0 || value > place->max)
    return session->error().invalid("extent ", quoted(extent), ": ", value, " is not in 0 to ",
                                    place->max);
  place->value = value;
  return MICA_OK;
}

mica_status mica_session_get(mica_session* session, const char* input, uint64_t offset, void* dst,
                             uint64_t bytes) {
  if (session == nullptr) return MICA_INVALID_ARGUMENT;
  if (dst == nullptr) return session->error().null("dst");
  const StepPlace* place = nullptr;
  MICA_TRY(mica::reach(session, input, offset, bytes, &place));
  return session->device->backend->buffer_read(session->step.handle(), place->held_offset + offset,
                                               dst, bytes);
}

}  // extern "C"
