// A backend of two ops, add and matmul in F32, without a KV cache: what an author has after the
// first day. tests/faults/author.sh shows that the suite serves such a backend. MICA_FAULT chooses
// a mistake: "hang" (add of a tensor with an extent never ends), "crash" (the same, by a signal),
// "status" (supports answers a number that is no answer).
#define mica_backend_entry template_entry
#include "backends/template/backend.cpp"
#undef mica_backend_entry

#include <signal.h>
#include <stdio.h>

namespace {

struct Plan {
  const mica_b_partition* partition;
  char* base[64];
};

bool fault(const char* name) {
  const char* chosen = getenv("MICA_FAULT");
  return chosen != nullptr && strcmp(chosen, name) == 0;
}

mica_status two_info(const mica_host*, uint32_t, mica_device_info* out) {
  memset(out, 0, sizeof *out);
  memcpy(out->backend, "two_ops", sizeof "two_ops");
  memcpy(out->name, "plain loops", sizeof "plain loops");
  return MICA_OK;
}
mica_status two_state(mica_b_device*, mica_device_info* out) { return two_info(nullptr, 0, out); }

mica_status two_kv_layout(mica_b_device* d, const mica_b_kv_desc*, uint32_t*, uint64_t*) {
  return fail(of(d)->host, MICA_UNSUPPORTED, "two_ops keeps no KV cache");
}

mica_status two_supports(mica_b_device*, const mica_b_partition* p, uint32_t node, char* reason,
                         size_t capacity) {
  const mica_b_node& n = p->nodes[node];
  const char* no = nullptr;
  if (n.op != MICA_OP_add && n.op != MICA_OP_matmul) no = "two_ops has add and matmul only";
  for (uint32_t i = 0; no == nullptr && i < n.n_inputs; ++i)
    if (p->values[n.input[i]].dtype != MICA_F32) no = "two_ops has F32 only";
  if (no == nullptr) return fault("status") ? static_cast<mica_status>(1234) : MICA_OK;
  snprintf(reason, capacity, "%s", no);
  return MICA_UNSUPPORTED;
}
mica_status two_claims(mica_b_device*, const mica_b_partition*, uint32_t, char* reason,
                       size_t capacity) {
  snprintf(reason, capacity, "two_ops fuses nothing");
  return MICA_UNSUPPORTED;
}

mica_status two_query(mica_b_device*, const mica_b_partition* p, uint32_t unit, mica_b_need* out) {
  const bool is_add = p->nodes[p->units[unit].node].op == MICA_OP_add;
  out->workspace_bytes = 0;
  out->numerics = MICA_NUM_F32;
  snprintf(out->kernel, sizeof out->kernel, "%s", is_add ? "add.loop" : "matmul.loop");
  return MICA_OK;
}

mica_status two_compile(mica_b_device* d, const mica_b_partition* partition,
                        mica_b_buffer* const* buffers, mica_b_plan** out) {
  if (partition->n_buffers > 64) return fail(of(d)->host, MICA_UNSUPPORTED, "too many buffers");
  auto* p = static_cast<Plan*>(malloc(sizeof(Plan)));
  if (p == nullptr) return fail(of(d)->host, MICA_OUT_OF_MEMORY, "out of memory: plan");
  p->partition = partition;
  for (uint32_t i = 0; i < partition->n_buffers; ++i) p->base[i] = of(buffers[i])->data;
  *out = reinterpret_cast<mica_b_plan*>(p);
  return MICA_OK;
}
void two_release(mica_b_plan* p) { free(p); }

// A value with its live shape: an extent's value is an I32 word of the step block.
struct Tensor {
  char* data;
  const mica_b_value* v;
  int64_t dim[4];
  float& at(int64_t i0, int64_t i1, int64_t i2, int64_t i3) const {
    const int64_t* s = v->stride;
    return *reinterpret_cast<float*>(data + i0 * s[0] + i1 * s[1] + i2 * s[2] + i3 * s[3]);
  }
};
Tensor bind(const Plan& p, uint32_t value) {
  const mica_b_value& v = p.partition->values[value];
  Tensor t = {p.base[v.buffer] + v.offset, &v, {v.dim[0], v.dim[1], v.dim[2], v.dim[3]}};
  if (v.extent != MICA_B_NONE) {
    int32_t live = 0;
    memcpy(&live, p.base[1] + p.partition->extents[v.extent].offset, sizeof live);
    t.dim[v.rank - 1] = live;
  }
  return t;
}

float add_at(const Tensor& a, const Tensor& b, const int64_t i[4]) {
  const int64_t* d = b.v->dim;
  return a.at(i[0], i[1], i[2], i[3]) + b.at(d[0] == 1 ? 0 : i[0], d[1] == 1 ? 0 : i[1],
                                             d[2] == 1 ? 0 : i[2], d[3] == 1 ? 0 : i[3]);
}
float matmul_at(const Tensor& w, const Tensor& x, const int64_t i[4]) {
  // How many slices of x share one of w: by the maxima, whatever is live.
  const int64_t r2 = x.v->dim[2] / w.v->dim[2], r3 = x.v->dim[3] / w.v->dim[3];
  float sum = 0;
  for (int64_t k = 0; k < w.dim[0]; ++k)
    sum += w.at(k, i[0], i[2] / r2, i[3] / r3) * x.at(k, i[1], i[2], i[3]);
  return sum;
}

void run(const Plan& p, const mica_b_node& n) {
  const Tensor a = bind(p, n.input[0]), b = bind(p, n.input[1]), y = bind(p, n.output);
  const bool is_add = n.op == MICA_OP_add;
  if (is_add && y.v->extent != MICA_B_NONE) {
    for (volatile bool wait = fault("hang"); wait;) {
    }
    if (fault("crash")) raise(SIGSEGV);
  }
  int64_t i[4];
  for (i[3] = 0; i[3] < y.dim[3]; ++i[3])
    for (i[2] = 0; i[2] < y.dim[2]; ++i[2])
      for (i[1] = 0; i[1] < y.dim[1]; ++i[1])
        for (i[0] = 0; i[0] < y.dim[0]; ++i[0])
          y.at(i[0], i[1], i[2], i[3]) = is_add ? add_at(a, b, i) : matmul_at(a, b, i);
}

mica_status two_submit(mica_b_plan* plan) {
  const Plan& p = *reinterpret_cast<Plan*>(plan);
  for (uint32_t i = 0; i < p.partition->n_units; ++i)
    run(p, p.partition->nodes[p.partition->units[i].node]);
  return MICA_OK;
}
mica_status two_wait(mica_b_plan*) { return MICA_OK; }

}  // namespace

extern "C" __attribute__((visibility("default"))) const mica_backend* mica_backend_entry(void) {
  static mica_backend table;
  table = *template_entry();
  table.name = "two_ops";
  table.device_info = two_info;
  table.device_state = two_state;
  table.kv_layout = two_kv_layout;
  table.supports = two_supports;
  table.claims = two_claims;
  table.query = two_query;
  table.compile = two_compile;
  table.submit = two_submit;
  table.wait = two_wait;
  table.plan_release = two_release;
  return &table;
}
