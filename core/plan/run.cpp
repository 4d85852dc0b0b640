// Steps: writing tables and extents, submit and wait, commit or abandon; reading outputs.
#include "core/kv/kv_cache.h"
#include "core/plan/session.h"

using mica::Error;
using mica::PlanNamed;
using mica::quoted;
using mica::StepPlace;

namespace {

mica_status write_step(mica_session* s, const StepPlace* place, const void* data, uint64_t bytes) {
  return s->device->backend->buffer_write(s->step.handle(), place->offset, data, bytes);
}

// The tables of the pending reserve, and what n_tokens must be.
mica_status write_tables(mica_session* s, const mica_plan* p) {
  const mica_kv_cache* cache = p->cache;
  uint32_t n = 0;
  const int32_t* positions = mica::kv_positions(cache, &n);
  if (n > p->extents[p->cache_extent].max)
    return s->error().fail(MICA_INVALID_ARGUMENT, "the reserve has ", n,
                           " tokens, the plan at most ", p->extents[p->cache_extent].max);
  mica::find_place(s, p->name_at(p->extent_names[p->cache_extent]), true)->value = n;
  for (const PlanNamed& in : p->inputs) {
    const char* name = p->name_at(in.name);
    if (std::strncmp(name, "kv.", 3) != 0) continue;
    const int32_t* words = positions;
    uint32_t n_words = n;
    if (std::strncmp(name, "kv.slots.", 9) == 0) {
      words = mica::kv_slots(cache, mica::group_number(name + 9), &n_words);
    } else if (std::strncmp(name, "kv.table.", 9) == 0) {
      words = mica::kv_table(cache, mica::group_number(name + 9), &n_words);
    }
    MICA_TRY(write_step(s, mica::find_place(s, name, false), words, n_words * sizeof(int32_t)));
  }
  return MICA_OK;
}

// Shared pages that the step appends to are copied first, in every layer that owns storage.
mica_status copy_pages(mica_session* s, const mica_kv_cache* cache) {
  uint32_t n = 0;
  const mica::PageCopy* copies = mica::kv_copies(cache, &n);
  for (uint32_t i = 0; i < n; ++i)
    for (uint32_t layer = 0; layer < mica::kv_n_layers(cache); ++layer) {
      if (mica::kv_group_of(cache, layer) != copies[i].group ||
          mica::kv_layer(cache, layer).source != MICA_KV_NO_SOURCE)
        continue;
      const mica::KvPlace& at = mica::kv_place(cache, layer);
      const auto copy = [&](uint64_t offset, uint64_t page_bytes) {
        return s->device->backend->buffer_copy(s->kv.handle(), offset + copies[i].dst * page_bytes,
                                               s->kv.handle(), offset + copies[i].src * page_bytes,
                                               page_bytes);
      };
      MICA_TRY(copy(at.k_offset, at.k_page_bytes));
      MICA_TRY(copy(at.v_offset, at.v_page_bytes));
    }
  return MICA_OK;
}

mica_status write_extents(mica_session* s, const mica_plan* p) {
  for (size_t i = 1; i < p->extents.size(); ++i) {
    const char* name = p->name_at(p->extent_names[i]);
    const StepPlace* place = mica::find_place(s, name, true);
    const int64_t value = mica::extent_value(*p, static_cast<uint32_t>(i));
    if (value > p->extents[i].max)
      return s->error().fail(MICA_INVALID_ARGUMENT, "extent ", quoted(name), " is ", value,
                             ", the plan's maximum is ", p->extents[i].max);
    const auto word = static_cast<int32_t>(value);
    MICA_TRY(write_step(s, place, &word, sizeof word));
  }
  return MICA_OK;
}

mica_status submit(mica_plan* p) {
  mica_session* s = p->session;
  if (p->cache != nullptr) {
    if (!mica::kv_pending(p->cache))
      return s->error().fail(MICA_INVALID_ARGUMENT, "the plan uses the cache: reserve first");
    MICA_TRY(write_tables(s, p));
    MICA_TRY(copy_pages(s, p->cache));
  }
  MICA_TRY(write_extents(s, p));
  p->ran = false;  // its outputs are those of no step until this one is done
  return mica::submit_segments(*p);
}

// What a failed step does to the session: nothing of it took place.
mica_status failed(mica_plan* p, mica_status status) {
  if (p->cache != nullptr) mica_kv_abandon(p->cache);
  Error& error = p->session->error();
  bool marked = false;  // it was a fallback device
  for (const mica_device* d : p->session->fallback) marked |= d->lost;
  if (status == MICA_DEVICE_LOST && !marked) p->session->device->lost = true;
  if (status == MICA_CANCELLED) return error.fail(status, "the step was cancelled");
  if (error.code() != status) error.fail(status, "the step failed: ", mica_status_text(status));
  return status;
}

const PlanNamed* find_output(const mica_plan* p, const char* name) {
  for (const PlanNamed& o : p->outputs)
    if (std::strcmp(p->name_at(o.name), name) == 0) return &o;
  return nullptr;
}

}  // namespace

int64_t mica::extent_value(const mica_plan& p, uint32_t extent) {
  const int64_t value = find_place(p.session, p.name_at(p.extent_names[extent]), true)->value;
  return value >= 0 ? value : p.extents[extent].max;
}

uint32_t mica::group_number(const char* digits) {
  uint32_t n = 0;
  for (; *digits >= '0' && *digits <= '9'; ++digits)
    n = n * 10 + static_cast<uint32_t>(*digits - '0');
  return n;
}

extern "C" {

mica_status mica_plan_submit(mica_plan* plan) {
  if (plan == nullptr) return MICA_INVALID_ARGUMENT;
  mica_session* s = plan->session;
  MICA_TRY(mica::session_ready(s));
  if (!plan->allocated) return s->error().fail(MICA_INVALID_ARGUMENT, "allocate the session first");
  if (s->device->context->cancelled()) return failed(plan, MICA_CANCELLED);
  s->error().clear();
  const mica_status status = submit(plan);
  if (status != MICA_OK) return failed(plan, status);
  s->running = plan;
  return MICA_OK;
}

mica_status mica_plan_wait(mica_plan* plan) {
  if (plan == nullptr) return MICA_INVALID_ARGUMENT;
  mica_session* s = plan->session;
  if (s->running != plan)
    return s->error().fail(MICA_INVALID_ARGUMENT, "no step of this plan is running");
  const mica_status status = mica::wait_last_segment(*plan);
  s->running = nullptr;
  if (status != MICA_OK) return failed(plan, status);
  plan->ran = true;
  return plan->cache != nullptr ? mica_kv_commit(plan->cache) : MICA_OK;
}

mica_status mica_plan_run(mica_plan* plan) {
  const mica_status status = mica_plan_submit(plan);
  return status == MICA_OK ? mica_plan_wait(plan) : status;
}

mica_status mica_plan_read(mica_plan* plan, const char* output, uint64_t offset, void* dst,
                           uint64_t bytes) {
  if (plan == nullptr || output == nullptr) return MICA_INVALID_ARGUMENT;
  mica_session* s = plan->session;
  MICA_TRY(mica::session_ready(s));
  const PlanNamed* o = find_output(plan, output);
  if (o == nullptr)
    return s->error().fail(MICA_NOT_FOUND, "the plan has no output ", quoted(output));
  const mica_b_value& v = plan->values[o->value];
  if (dst == nullptr || !mica::range_fits(offset, bytes, v.bytes))
    return s->error().fail(MICA_INVALID_ARGUMENT, "output ", quoted(output), " has ", v.bytes,
                           " bytes; ", bytes, " at ", offset, " cannot be read");
  if (!plan->ran) return s->error().fail(MICA_INVALID_ARGUMENT, "the plan has not run yet");
  if (v.storage != MICA_B_TEMP && v.storage != MICA_B_STEP)
    return s->error().fail(MICA_UNSUPPORTED, "output ", quoted(output),
                           " is a weight or a cache, not a computed value");
  const mica::Buffer& buffer = v.storage == MICA_B_TEMP ? s->arenas[plan->arena] : s->step;
  return s->device->backend->buffer_read(buffer.handle(), v.offset + offset, dst, bytes);
}

mica_status mica_plan_output_info(const mica_plan* plan, const char* output,
                                  mica_tensor_info* out_info) {
  if (plan == nullptr || output == nullptr || out_info == nullptr) return MICA_INVALID_ARGUMENT;
  const PlanNamed* o = find_output(plan, output);
  if (o == nullptr)
    return plan->session->error().fail(MICA_NOT_FOUND, "the plan has no output ", quoted(output));
  const mica_b_value& v = plan->values[o->value];
  *out_info = {v.dtype,
               v.rank,
               {v.dim[0], v.dim[1], v.dim[2], v.dim[3]},
               {v.extent != MICA_B_NONE ? v.extent : 0}};
  return MICA_OK;
}

mica_status mica_plan_output_numerics(const mica_plan* plan, const char* output,
                                      uint32_t* out_numerics) {
  if (plan == nullptr || output == nullptr || out_numerics == nullptr) return MICA_INVALID_ARGUMENT;
  const PlanNamed* o = find_output(plan, output);
  if (o == nullptr)
    return plan->session->error().fail(MICA_NOT_FOUND, "the plan has no output ", quoted(output));
  *out_numerics = MICA_NUM_EXACT;
  for (const mica_b_unit& u : plan->units) {
    const uint32_t one[] = {u.node};
    const uint32_t* nodes = u.region != MICA_B_NONE ? plan->regions[u.region].members : one;
    const uint32_t n = u.region != MICA_B_NONE ? plan->regions[u.region].n_members : 1;
    for (uint32_t i = 0; i < n; ++i)
      if (plan->roots[plan->nodes[nodes[i]].output] == plan->roots[o->value])
        *out_numerics = u.numerics;
  }
  return MICA_OK;
}

}  // extern "C"
