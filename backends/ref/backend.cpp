// The reference backend: every op's own double-precision reference, one unit after another.
// Options: a numerics ("ref:q8_32") makes references round activations as kernels of that numerics
// do; ",bound" makes a node whose value no other node reads give the size of its terms, sqrt(n) *
// sum |t|, instead of its value; ",rest" makes one of F16 or BF16 give what rounding to the type
// took away, in steps of the type. ",jitter3" moves every element of every F32 result a little, as
// sums of another order would, the third way: what comes of it shows how much of a difference the
// roundings behind it can make. ",border3" moves them likewise, and lets activations that lie at
// the border of two steps of what they are rounded to go either way. ",shake3" moves results by
// more: by their terms too, and of F16 and BF16 by a step of the type, as graphs of any kind need
// it. The conformance suite derives its bounds from the former, tests/fuzz from the latter.
// ",fused" claims every region and runs its members in their order, for tests of the core's
// fusions.
#include "backends/cancellable.h"
#include "backends/known_args_check.h"
#include "core/base/context.h"
#include "core/graph/op.h"
#include "core/kv/kv_cache.h"
#include "mica/device.h"
#include "ops/attention/attention_args.h"
#include "ops/common.h"
#include "ops/concat_args.h"
#include "ops/copy_args.h"
#include "ops/kv_shift_args.h"
#include "ops/norm_args.h"
#include "ops/rope_args.h"
#include "ops/softmax_args.h"
#include "ops/top_k_args.h"
#include "ops/unary_args.h"

// How a unit runs its op. tests/faults builds this file with a version that makes mistakes.
#ifndef MICA_REF_CALL
#define MICA_REF_CALL(partition, node, op, call) (op).reference(call)
#endif

using mica::HostTensor;
using mica::OpDef;

namespace {

// What is done beside computing the values; see above.
enum class Mode { kPlain, kBound, kRest, kFused, kJitter, kBorder, kShake };

struct Device {
  const mica_host* host;
  mica_numerics numerics;
  Mode mode;
  uint32_t way;  // which way results are moved, from 1 on
  bool moves() const { return mode >= Mode::kJitter; }
};

struct Memory {
  const mica_allocator* allocator;
  char* data;
  uint64_t bytes;
  bool imported;
};

struct Plan {
  explicit Plan(const mica_allocator& a) : bases(a), is_read(a), inner(a) {}
  Device* device = nullptr;
  const mica_b_partition* partition = nullptr;
  mica::Vec<char*> bases;        // of the buffers
  mica::Vec<uint8_t> is_read;    // per value: some node reads it
  mica::Vec<char> inner;         // of values that live inside a region
  mica_status status = MICA_OK;  // of the step, told by wait
};

// The boundary's handles are opaque: each backend keeps its own types behind them, in a namespace
// of its own, so that two backends in one program never share an inline function.
Device* of(mica_b_device* d) { return reinterpret_cast<Device*>(d); }
Memory* of(mica_b_buffer* b) { return reinterpret_cast<Memory*>(b); }
Plan* of(mica_b_plan* p) { return reinterpret_cast<Plan*>(p); }

constexpr struct {
  const char* name;
  mica_numerics numerics;
} kOptions[] = {{"", MICA_NUM_F64},          {"f64", MICA_NUM_F64},    {"f32", MICA_NUM_F32},
                {"f16", MICA_NUM_F16},       {"bf16", MICA_NUM_BF16},  {"q8_32", MICA_NUM_Q8_32},
                {"q8_256", MICA_NUM_Q8_256}, {"f16_w", MICA_NUM_F16_W}};

mica_status fail(const mica_host* host, mica_status status, const char* text) {
  host->set_error(host->user, status, text);
  return status;
}

uint32_t device_count(const mica_host*) { return 1; }

mica_status device_info(const mica_host*, uint32_t, mica_device_info* out) {
  *out = {};
  mica::Writer(out->backend, sizeof out->backend).put("ref");
  mica::Writer(out->name, sizeof out->name).put("double-precision reference");
  mica::Writer(out->options, sizeof out->options).put("f64, f32, f16, f16_w, bf16, q8_32, q8_256");
  out->is_cpu = 1;
  return MICA_OK;
}

mica_status device_state(mica_b_device*, mica_device_info* out) {
  return device_info(nullptr, 0, out);
}

// What stands behind the numerics: nothing, or one of the modes' names, of the last three with a
// number from 1 to 999.
bool read_mode(const char* text, Mode& mode, uint32_t& way) {
  constexpr struct {
    const char* name;
    Mode mode;
  } kModes[] = {{"", Mode::kPlain},       {",bound", Mode::kBound},   {",rest", Mode::kRest},
                {",fused", Mode::kFused}, {",jitter", Mode::kJitter}, {",border", Mode::kBorder},
                {",shake", Mode::kShake}};
  for (const auto& m : kModes) {
    const size_t length = std::strlen(m.name);
    if (std::strncmp(text, m.name, length) != 0) continue;
    const char* c = text + length;
    for (way = 0; *c >= '0' && *c <= '9' && way < 100; ++c)
      way = way * 10 + static_cast<uint32_t>(*c - '0');
    mode = m.mode;
    if (*c == '\0' && (mode >= Mode::kJitter) == (way > 0) && (way > 0 || c == text + length))
      return true;
  }
  return false;
}

mica_status device_open(const mica_host* host, const char* option, mica_b_device** out) {
  size_t length = 0;
  while (option[length] != '\0' && option[length] != ',') ++length;
  Mode mode = Mode::kPlain;
  uint32_t way = 0;
  const bool is_known = read_mode(option + length, mode, way);
  for (const auto& o : kOptions) {
    if (std::strlen(o.name) != length || std::memcmp(o.name, option, length) != 0) continue;
    if (!is_known) break;
    auto* d = mica::create<Device>(*host->allocator);
    if (d == nullptr) return fail(host, MICA_OUT_OF_MEMORY, "out of memory: device");
    *d = {host, o.numerics, mode, way};
    *out = reinterpret_cast<mica_b_device*>(d);
    return MICA_OK;
  }
  return fail(host, MICA_NOT_FOUND,
              "ref has no such option; there are: f64, f32, f16, f16_w, bf16, q8_32, q8_256");
}

void device_close(mica_b_device* d) { mica::destroy(*of(d)->host->allocator, of(d)); }

mica_status buffer_create(mica_b_device* d, uint64_t bytes, mica_b_buffer** out) {
  const mica_allocator* a = of(d)->host->allocator;
  auto* b = mica::create<Memory>(*a);
  if (b == nullptr) return MICA_OUT_OF_MEMORY;
  *b = {a, static_cast<char*>(mica::allocate(*a, static_cast<size_t>(bytes), 256)), bytes, false};
  if (b->data == nullptr) {
    mica::destroy(*a, b);
    return MICA_OUT_OF_MEMORY;
  }
  std::memset(b->data, 0, static_cast<size_t>(bytes));
  *out = reinterpret_cast<mica_b_buffer*>(b);
  return MICA_OK;
}

mica_status buffer_import(mica_b_device* d, void* host, uint64_t bytes, mica_b_buffer** out) {
  const mica_allocator* a = of(d)->host->allocator;
  auto* b = mica::create<Memory>(*a);
  if (b == nullptr) return MICA_OUT_OF_MEMORY;
  *b = {a, static_cast<char*>(host), bytes, true};
  *out = reinterpret_cast<mica_b_buffer*>(b);
  return MICA_OK;
}

void buffer_free(mica_b_buffer* buffer) {
  Memory* b = of(buffer);
  const mica_allocator& a = *b->allocator;
  if (!b->imported) mica::deallocate(a, b->data, static_cast<size_t>(b->bytes));
  mica::destroy(a, b);
}

void* buffer_map(mica_b_buffer* b) { return of(b)->data; }

mica_status buffer_write(mica_b_buffer* b, uint64_t offset, const void* src, uint64_t bytes) {
  std::memcpy(of(b)->data + offset, src, static_cast<size_t>(bytes));
  return MICA_OK;
}
mica_status buffer_read(mica_b_buffer* b, uint64_t offset, void* dst, uint64_t bytes) {
  std::memcpy(dst, of(b)->data + offset, static_cast<size_t>(bytes));
  return MICA_OK;
}
mica_status buffer_copy(mica_b_buffer* dst, uint64_t to, mica_b_buffer* src, uint64_t from,
                        uint64_t bytes) {
  std::memmove(of(dst)->data + to, of(src)->data + from, static_cast<size_t>(bytes));
  return MICA_OK;
}

uint64_t weight_row_bytes(const mica_b_value* w) {
  return mica::row_bytes(mica::find_dtype(static_cast<uint32_t>(w->dtype))->info,
                         static_cast<uint64_t>(w->dim[0]));
}

mica_status weight_layout(mica_b_device*, const mica_b_value* w, uint32_t* out_layout,
                          uint64_t* out_bytes, uint32_t* out_granule_rows) {
  *out_layout = 0;
  *out_bytes = weight_row_bytes(w) * static_cast<uint64_t>(w->dim[1] * w->dim[2] * w->dim[3]);
  *out_granule_rows = 1;
  return MICA_OK;
}
mica_status weight_pack(mica_b_device*, const mica_b_value* w, mica_b_buffer* b, const void* rows,
                        uint64_t first, uint64_t n) {
  const uint64_t row = weight_row_bytes(w);
  return buffer_write(b, w->offset + first * row, rows, n * row);
}
mica_status weight_unpack(mica_b_device*, const mica_b_value* w, mica_b_buffer* b, void* rows,
                          uint64_t first, uint64_t n) {
  const uint64_t row = weight_row_bytes(w);
  return buffer_read(b, w->offset + first * row, rows, n * row);
}

mica_status kv_layout(mica_b_device*, const mica_b_kv_desc* d, uint32_t* out_layout,
                      uint64_t* out_page_bytes) {
  const mica_dtype_info& info = mica::find_dtype(static_cast<uint32_t>(d->dtype))->info;
  *out_layout = 0;
  *out_page_bytes = static_cast<uint64_t>(mica::div_up(d->head_dim, info.block_elems)) *
                    info.block_bytes * d->n_kv_heads * mica::kPageCells;
  return MICA_OK;
}

// A page is plain rows already.
mica_status kv_pack(mica_b_device* device, const mica_b_kv_desc* d, mica_b_buffer* b,
                    uint64_t offset, const void* rows) {
  uint32_t layout = 0;
  uint64_t bytes = 0;
  MICA_TRY(kv_layout(device, d, &layout, &bytes));
  return buffer_write(b, offset, rows, bytes);
}
mica_status kv_unpack(mica_b_device* device, const mica_b_kv_desc* d, mica_b_buffer* b,
                      uint64_t offset, void* rows) {
  uint32_t layout = 0;
  uint64_t bytes = 0;
  MICA_TRY(kv_layout(device, d, &layout, &bytes));
  return buffer_read(b, offset, rows, bytes);
}

// What the references read. As a plug-in it may be older than the core.
constexpr mica::KnownArgs kKnown[] = {MICA_KNOWS(attention, rope_keys),
                                      MICA_KNOWS(concat, dim),
                                      MICA_KNOWS(copy, dtype),
                                      MICA_KNOWS(kv_shift, pairing),
                                      MICA_KNOWS(layer_norm, eps),
                                      MICA_KNOWS(rms_norm, eps),
                                      MICA_KNOWS(rope, magnitude),
                                      MICA_KNOWS(rope_angles, beta_slow),
                                      MICA_KNOWS(scale, bias),
                                      MICA_KNOWS(softmax, scale),
                                      MICA_KNOWS(top_k, k),
                                      {MICA_OP_NONE, 0}};

uint32_t args_bytes(mica_b_device*, uint32_t op) { return mica::known_bytes(kKnown, op); }

mica_status supports(mica_b_device*, const mica_b_partition* p, uint32_t node, char* reason,
                     size_t capacity) {
  const OpDef* op = mica::find_op(p->nodes[node].op);
  if (op != nullptr && op->reference != nullptr) return MICA_OK;
  mica::Writer(reason, capacity).put("this version has no reference of the op");
  return MICA_UNSUPPORTED;
}

mica_status claims(mica_b_device* d, const mica_b_partition*, uint32_t, char* reason,
                   size_t capacity) {
  if (of(d)->mode == Mode::kFused) return MICA_OK;
  mica::Writer(reason, capacity).put("the reference runs plain ops only");
  return MICA_UNSUPPORTED;
}

mica_status query(mica_b_device* d, const mica_b_partition*, uint32_t, mica_b_need* out) {
  out->workspace_bytes = 0;
  out->numerics = static_cast<uint32_t>(of(d)->numerics);
  mica::Writer(out->kernel, sizeof out->kernel).put("reference");
  return MICA_OK;
}

mica_status compile(mica_b_device* device, const mica_b_partition* partition,
                    mica_b_buffer* const* buffers, mica_b_plan** out) {
  Device* d = of(device);
  const mica_allocator& a = *d->host->allocator;
  auto* p = mica::create<Plan>(a, a);
  bool ok = p != nullptr && p->is_read.resize(partition->n_values);
  uint64_t inner_bytes = 0;
  for (uint32_t i = 1; i < partition->n_values; ++i) {
    const mica_b_value& v = partition->values[i];
    if (v.storage == MICA_B_UNPLACED && inner_bytes < v.offset + v.bytes)
      inner_bytes = v.offset + v.bytes;
  }
  ok = ok && (partition->n_regions == 0 || p->inner.resize(static_cast<size_t>(inner_bytes)));
  for (uint32_t i = 0; ok && i < partition->n_buffers; ++i)
    ok = p->bases.push(of(buffers[i])->data);
  if (!ok) {
    mica::destroy(a, p);
    return fail(d->host, MICA_OUT_OF_MEMORY, "out of memory: plan");
  }
  for (uint32_t i = 0; i < partition->n_nodes; ++i)
    for (uint32_t k = 0; k < partition->nodes[i].n_inputs; ++k)
      if (const uint32_t v = partition->nodes[i].input[k]; v != MICA_B_NONE) {
        // A view's reader reads its base: mark all that lie at the same place.
        for (uint32_t w = 1; w < partition->n_values; ++w)
          if (partition->values[w].storage == partition->values[v].storage &&
              partition->values[w].buffer == partition->values[v].buffer &&
              partition->values[w].offset == partition->values[v].offset)
            p->is_read[w] = 1;
      }
  p->device = d;
  p->partition = partition;
  *out = reinterpret_cast<mica_b_plan*>(p);
  return MICA_OK;
}

HostTensor bind(Plan* p, uint32_t value) {
  HostTensor t;
  if (value == MICA_B_NONE) return t;
  const mica_b_value& v = p->partition->values[value];
  t.dtype = v.dtype;
  t.data = (v.storage == MICA_B_UNPLACED ? p->inner.data() : p->bases[v.buffer]) + v.offset;
  for (int i = 0; i < 4; ++i) t.dim[i] = t.max_dim[i] = v.dim[i], t.stride[i] = v.stride[i];
  if (v.extent != MICA_B_NONE) {
    int32_t live = 0;
    std::memcpy(&live, p->bases[1] + p->partition->extents[v.extent].offset, sizeof live);
    t.dim[v.rank - 1] = live;
  }
  return t;
}

// sqrt(n_terms) * magnitude in place of the value.
mica_status run_bound(const OpDef& op, mica::RefCall& call) {
  const mica_allocator& a = *call.allocator;
  const auto n = static_cast<size_t>(call.out.elements());
  mica::Vec<double> magnitude(a);
  double n_terms = 1;
  if (!magnitude.resize(n)) return MICA_OUT_OF_MEMORY;
  call.magnitude = magnitude.data();
  call.n_terms = &n_terms;
  MICA_TRY(op.reference(call));
  double root = 1;
  while (root * root < n_terms) root *= 1.1;  // from above, within 10 %
  size_t i = 0;
  const HostTensor& o = call.out;
  for (int64_t i3 = 0; i3 < o.dim[3]; ++i3)
    for (int64_t i2 = 0; i2 < o.dim[2]; ++i2)
      for (int64_t i1 = 0; i1 < o.dim[1]; ++i1)
        for (int64_t i0 = 0; i0 < o.dim[0]; ++i0) o.set(magnitude[i++] * root, i0, i1, i2, i3);
  return MICA_OK;
}

// What rounding took away, in steps of the dtype, in place of the value: 0 where that is not
// finite.
mica_status run_rest(const OpDef& op, mica::RefCall& call) {
  const HostTensor out = call.out;
  mica::Vec<float> values(*call.allocator);
  if (!values.resize(static_cast<size_t>(out.elements()))) return MICA_OUT_OF_MEMORY;
  call.out.dtype = MICA_F32;
  call.out.data = values.data();
  int64_t stride = sizeof(float);
  for (int i = 0; i < 4; ++i) call.out.stride[i] = stride, stride *= out.dim[i];
  MICA_TRY(op.reference(call));
  size_t i = 0;
  for (int64_t i3 = 0; i3 < out.dim[3]; ++i3)
    for (int64_t i2 = 0; i2 < out.dim[2]; ++i2)
      for (int64_t i1 = 0; i1 < out.dim[1]; ++i1)
        for (int64_t i0 = 0; i0 < out.dim[0]; ++i0) {
          const double v = values[i++];
          out.set(v, i0, i1, i2, i3);
          const double taken = v - out.at(i0, i1, i2, i3);
          const bool finite = __builtin_isfinite(taken);
          out.set(finite ? taken / mica::step_at(out.dtype, v) : 0, i0, i1, i2, i3);
        }
  return MICA_OK;
}

// Moves each element of a node's result by up to 2^-21 of itself and of its row's root mean square,
// somewhat more than sums in F32 are off by; with `terms`, the magnitudes of each element's, also
// by 2^-24 of those and, of F16 and BF16, by a step of the type.
void run_jitter(const HostTensor& y, uint32_t jitter, uint32_t node, const double* terms,
                double* row) {
  const double type_step = terms == nullptr       ? 0
                           : y.dtype == MICA_F16  ? 0x1p-10
                           : y.dtype == MICA_BF16 ? 0x1p-7
                                                  : 0;
  uint64_t i = 0;
  for (int64_t i3 = 0; i3 < y.dim[3]; ++i3)
    for (int64_t i2 = 0; i2 < y.dim[2]; ++i2)
      for (int64_t i1 = 0; i1 < y.dim[1]; ++i1) {
        y.read_row(row, i1, i2, i3);
        const double size = mica::finite_rms(row, y.dim[0]);
        for (int64_t i0 = 0; i0 < y.dim[0]; ++i0, ++i) {
          if (!__builtin_isfinite(row[i0])) continue;
          const double magnitude = __builtin_fabs(row[i0]);
          double step = 0x1p-21 * (magnitude + size);
          if (terms != nullptr) step += 0x1p-24 * terms[i] + type_step * magnitude;
          y.set(row[i0] + step * mica::noise(jitter, node, i), i0, i1, i2, i3);
        }
      }
}

mica_status run_node(Plan* p, uint32_t i_node, uint32_t numerics) {
  const mica_b_node& node = p->partition->nodes[i_node];
  const OpDef& op = *mica::find_op(node.op);
  HostTensor in[MICA_B_MAX_INPUTS];
  for (uint32_t k = 0; k < node.n_inputs; ++k) in[k] = bind(p, node.input[k]);
  mica::RefCall call{in,
                     node.n_inputs,
                     bind(p, node.output),
                     node.args,
                     p->device->host->allocator,
                     static_cast<mica_numerics>(numerics)};
  const bool float_out =
      call.out.dtype == MICA_F32 || call.out.dtype == MICA_F16 || call.out.dtype == MICA_BF16;
  const Device& d = *p->device;
  if (d.mode == Mode::kBound && float_out && (op.flags & mica::kOpState) == 0 &&
      p->is_read[node.output] == 0)
    return run_bound(op, call);
  if (d.mode == Mode::kRest && (call.out.dtype == MICA_F16 || call.out.dtype == MICA_BF16) &&
      (op.flags & mica::kOpState) == 0 && p->is_read[node.output] == 0)
    return run_rest(op, call);
  if (d.mode == Mode::kBorder) call.border = uint64_t{d.way} << 32 | i_node;
  const bool shakes = d.mode == Mode::kShake;
  const bool moves = d.moves() && (shakes ? float_out : call.out.dtype == MICA_F32) &&
                     (op.flags & mica::kOpState) == 0;
  mica::Vec<double> row(*call.allocator), terms(*call.allocator);
  if (moves && !row.resize(static_cast<size_t>(call.out.dim[0]))) return MICA_OUT_OF_MEMORY;
  if (moves && shakes) {
    if (!terms.resize(static_cast<size_t>(call.out.elements()))) return MICA_OUT_OF_MEMORY;
    call.magnitude = terms.data();
  }
  MICA_TRY(MICA_REF_CALL(*p->partition, node, op, call));
  if (moves) run_jitter(call.out, d.way, i_node, shakes ? terms.data() : nullptr, row.data());
  return MICA_OK;
}

mica_status run_unit(Plan* p, const mica_b_unit& unit) {
  if (unit.region == MICA_B_NONE) return run_node(p, unit.node, unit.numerics);
  const mica_b_region& region = p->partition->regions[unit.region];
  for (uint32_t i = 0; i < region.n_members; ++i)
    MICA_TRY(run_node(p, region.members[i], unit.numerics));
  return MICA_OK;
}

mica_status submit(mica_b_plan* plan) {
  Plan* p = of(plan);
  const mica_host* host = p->device->host;
  const bool may_stop = host->cancel != nullptr && mica::is_cancellable(*p->partition);
  p->status = MICA_OK;
  for (uint32_t i = 0; i < p->partition->n_units && p->status == MICA_OK; ++i) {
    if (may_stop && __atomic_load_n(host->cancel, __ATOMIC_RELAXED) != 0) {
      p->status = MICA_CANCELLED;
    } else {
      p->status = run_unit(p, p->partition->units[i]);
    }
  }
  if (p->status == MICA_OUT_OF_MEMORY) fail(host, p->status, "out of memory in a reference");
  return MICA_OK;
}

mica_status wait(mica_b_plan* p) { return of(p)->status; }

void plan_release(mica_b_plan* p) { mica::destroy(*of(p)->device->host->allocator, of(p)); }

const mica_backend kBackend = {sizeof(mica_backend),
                               MICA_BACKEND_ABI,
                               "ref",
                               device_count,
                               device_info,
                               device_open,
                               device_close,
                               device_state,
                               buffer_create,
                               buffer_free,
                               buffer_import,
                               buffer_map,
                               buffer_write,
                               buffer_read,
                               buffer_copy,
                               weight_layout,
                               weight_pack,
                               weight_unpack,
                               nullptr,
                               kv_layout,
                               kv_pack,
                               kv_unpack,
                               args_bytes,
                               supports,
                               claims,
                               nullptr,
                               query,
                               compile,
                               submit,
                               wait,
                               plan_release,
                               nullptr,
                               nullptr};  // variants: an op has its reference alone

}  // namespace

extern "C" const mica_backend* mica_backend_ref(void) { return &kBackend; }
