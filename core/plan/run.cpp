// Steps: writing tables and extents, submit and wait, commit or abandon; reading outputs.
#include "core/kv/kv_cache.h"
#include "core/plan/session.h"

using mica::Error;
using mica::PlanNamed;
using mica::quoted;
using mica::StepPlace;

namespace {

mica_status write_step(mica_session* s, const StepPlace& place, const void* data, uint64_t bytes) {
  return s->device->backend->buffer_write(s->step.handle(), place.held_offset, data, bytes);
}

// The tables of the pending reserve. Their number of tokens is that of the cache's extent.
mica_status write_tables(mica_session* s, const mica_plan* p) {
  const mica_kv_cache* cache = p->cache;
  const uint32_t n = mica::kv_step_tokens(cache);
  const StepPlace& extent = s->places[p->extent_places[p->cache_extent]];
  if (n > p->extents[p->cache_extent].max)
    return s->error().invalid("the reserve has ", n, " tokens, the plan at most ",
                              p->extents[p->cache_extent].max);
  if (extent.value >= 0 && extent.value != n)
    return s->error().invalid("the reserve has ", n, " tokens, but extent ",
                              quoted(extent.name.c_str()), " was set to ", extent.value);
  MICA_TRY(mica::kv_check_plan(cache, p->reads_table.data()));
  for (const mica::PlanInput& in : p->inputs) {
    if (in.table == 0 || in.place == mica::kNoPlace) continue;
    uint32_t n_words = 0;
    const int32_t* words = mica::kv_step_data(cache, in.table - 1, &n_words);
    MICA_TRY(write_step(s, s->places[in.place], words, n_words * sizeof(int32_t)));
  }
  return MICA_OK;
}

// Shared pages that the step appends to are copied first, in every layer that owns storage.
mica_status copy_pages(mica_session* s, const mica_kv_cache* cache) {
  uint32_t n = 0;
  const mica::PageCopy* copies = mica::kv_copies(cache, &n);
  for (uint32_t i = 0; i < n; ++i)
    for (uint32_t layer = 0; layer < mica::kv_n_layers(cache); ++layer) {
      if (cache->layers[layer].group != copies[i].group ||
          mica::kv_layer(cache, layer).source != MICA_KV_NO_SOURCE)
        continue;
      const mica::KvPlace& at = mica::kv_place(cache, layer);
      const auto copy = [&](uint64_t offset, uint64_t page_bytes) {
        return s->device->backend->buffer_copy(s->kv.handle(), offset + copies[i].dst * page_bytes,
                                               s->kv.handle(), offset + copies[i].src * page_bytes,
                                               page_bytes);
      };
      MICA_TRY(copy(at.k_offset, at.k_page_bytes));
      if (at.v_offset != at.k_offset) MICA_TRY(copy(at.v_offset, at.v_page_bytes));
    }
  return MICA_OK;
}

mica_status write_extents(mica_session* s, const mica_plan* p) {
  for (size_t i = 1; i < p->extents.size(); ++i) {
    const int64_t value = mica::extent_value(*p, static_cast<uint32_t>(i));
    if (value > p->extents[i].max)
      return s->error().invalid("extent ", quoted(p->name_at(p->extent_names[i])), " is ", value,
                                ", the plan's maximum is ", p->extents[i].max);
    const auto word = static_cast<int32_t>(value);
    MICA_TRY(write_step(s, s->places[p->extent_places[i]], &word, sizeof word));
  }
  return MICA_OK;
}

mica_status submit(mica_plan* p) {
  mica_session* s = p->session;
  if (p->cache != nullptr) {
    if (!p->cache->pending) return s->error().invalid("the plan uses the cache: reserve first");
    MICA_TRY(write_tables(s, p));
    p->cache->is_marked = false;  // from here on pages that edits left free may be written
    MICA_TRY(copy_pages(s, p->cache));
  }
  MICA_TRY(write_extents(s, p));
  s->last = nullptr;  // plans share memory: no outputs are there until this step is done
  return p->in_parts() ? mica::submit_parts(*p) : s->device->backend->submit(p->compiled.handle);
}

// What a failed step does to the session: nothing of it took place. But of a shift that had begun,
// nobody knows which keys it has rotated: the cache is emptied.
mica_status failed(mica_plan* p, mica_status status, bool had_begun = false) {
  const bool spoilt = had_begun && p->cache != nullptr && p->cache->is_shift;
  if (p->cache != nullptr) mica_kv_abandon(p->cache);
  if (spoilt) (void)mica_kv_clear(p->cache);
  Error& error = p->session->error();
  if (status == MICA_DEVICE_LOST && mica::lost_fallback(p->session) == nullptr)
    p->session->device->lost = true;
  if (status == MICA_CANCELLED) return error.fail(status, "the step was cancelled");
  if (error.code() != status) error.fail(status, "the step failed: ", mica_status_text(status));
  return status;
}

mica_status find_output(const mica_plan* p, const char* name, const PlanNamed*& out) {
  Error& error = p->session->error();
  if (name == nullptr) return error.null("output");
  const auto name_of = [p](uint32_t i) { return p->name_at(p->outputs[i].name); };
  const uint32_t i = p->output_names.find(name, name_of);
  if (i == mica::NameMap::kNone)
    return error.fail(MICA_NOT_FOUND, "the plan has no output ", quoted(name));
  out = &p->outputs[i];
  return MICA_OK;
}

}  // namespace

int64_t mica::extent_value(const mica_plan& p, uint32_t extent) {
  if (p.cache != nullptr && extent == p.cache_extent) return kv_step_tokens(p.cache);
  if (p.extent_tables[extent] != 0) return p.cache->n_turns;
  const int64_t value = p.session->places[p.extent_places[extent]].value;
  return value >= 0 ? value : p.extents[extent].max;
}

mica_status mica::wait_step(mica_plan& p) {
  return p.in_parts() ? wait_parts(p) : p.session->device->backend->wait(p.compiled.handle);
}

extern "C" {

mica_status mica_plan_submit(mica_plan* plan) {
  if (plan == nullptr) return MICA_INVALID_ARGUMENT;
  mica_session* s = plan->session;
  mica_status status = mica::session_ready(s);
  if (status == MICA_BUSY) return status;  // the step that runs has the reserve
  if (status == MICA_OK && !plan->allocated)
    status = s->error().invalid("allocate the session first");
  if (status != MICA_OK) return failed(plan, status);
  if (s->device->context->cancelled()) return failed(plan, MICA_CANCELLED);
  s->error().clear();
  status = submit(plan);
  if (status != MICA_OK) return failed(plan, status);
  s->running = plan;
  if (plan->cache != nullptr) plan->cache->in_flight = true;
  return MICA_OK;
}

mica_status mica_plan_wait(mica_plan* plan) {
  if (plan == nullptr) return MICA_INVALID_ARGUMENT;
  mica_session* s = plan->session;
  if (s->running != plan) return s->error().invalid("no step of this plan is running");
  const mica_status status = mica::wait_step(*plan);
  s->running = nullptr;
  if (plan->cache != nullptr) plan->cache->in_flight = false;
  if (status != MICA_OK) return failed(plan, status, true);
  plan->ran = true;
  s->last = plan;
  return plan->cache != nullptr ? mica_kv_commit(plan->cache) : MICA_OK;
}

mica_status mica_plan_run(mica_plan* plan) {
  const mica_status status = mica_plan_submit(plan);
  return status == MICA_OK ? mica_plan_wait(plan) : status;
}

mica_status mica_plan_read(mica_plan* plan, const char* output, uint64_t offset, void* dst,
                           uint64_t bytes) {
  if (plan == nullptr) return MICA_INVALID_ARGUMENT;
  mica_session* s = plan->session;
  MICA_TRY(mica::session_ready(s));
  const PlanNamed* o = nullptr;
  MICA_TRY(find_output(plan, output, o));
  const mica_b_value& v = plan->values[o->value];
  if (dst == nullptr)
    return s->error().invalid("output ", quoted(output), " has nowhere to go: dst is NULL");
  if (!mica::range_fits(offset, bytes, v.bytes))
    return s->error().invalid("output ", quoted(output), " has ", v.bytes, " bytes; ", bytes,
                              " at ", offset, " cannot be read");
  if (s->last != plan && !plan->ran) return s->error().invalid("the plan has not run yet");
  if (s->last != plan)
    return s->error().invalid(s->last == nullptr ? "a later step of the session failed"
                                                 : "another plan of the session has run since",
                              ": the plan's outputs are gone");
  if (v.storage != MICA_B_TEMP && v.storage != MICA_B_STEP)
    return s->error().fail(MICA_UNSUPPORTED, "output ", quoted(output),
                           " is a weight or a cache, not a computed value");
  const mica::Buffer& buffer = v.storage == MICA_B_TEMP ? s->arenas[plan->arena] : s->step;
  return s->device->backend->buffer_read(buffer.handle(), v.offset + offset, dst, bytes);
}

mica_status mica_plan_output_info(const mica_plan* plan, const char* output,
                                  mica_tensor_info* out_info) {
  if (plan == nullptr) return MICA_INVALID_ARGUMENT;
  Error& error = plan->session->error();
  if (out_info == nullptr) return error.null("out_info");
  const PlanNamed* o = nullptr;
  MICA_TRY(find_output(plan, output, o));
  const mica_b_value& v = plan->values[o->value];
  *out_info = {v.dtype, v.rank, {v.dim[0], v.dim[1], v.dim[2], v.dim[3]}, {0, 0}};
  if (v.extent != MICA_B_NONE) out_info->extent = {v.extent, plan->graph_tag};
  return MICA_OK;
}

mica_status mica_plan_output_numerics(const mica_plan* plan, const char* output,
                                      uint32_t* out_numerics) {
  if (plan == nullptr) return MICA_INVALID_ARGUMENT;
  Error& error = plan->session->error();
  if (out_numerics == nullptr) return error.null("out_numerics");
  const PlanNamed* o = nullptr;
  MICA_TRY(find_output(plan, output, o));
  *out_numerics = MICA_NUM_EXACT;
  for (const mica_b_unit& u : plan->units)
    for (const uint32_t node : plan->nodes_of(u))
      if (plan->roots[plan->nodes[node].output] == plan->roots[o->value])
        *out_numerics = u.numerics;
  return MICA_OK;
}

}  // extern "C"
