// The CPU backend's table of functions.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "backends/cpu/kv_page.h"
#include "backends/cpu/layout.h"
#include "backends/cpu/plan.h"
#include "backends/cpu/topology.h"

using mica::Error;
using mica::Writer;
namespace cpu = mica::cpu;

namespace {

// --- Devices ------------------------------------------------------------------------------------

uint32_t device_count(const mica_host*) { return 1; }

uint64_t pages_bytes(int name) {
  const long pages = sysconf(name);
  const long size = sysconf(_SC_PAGESIZE);
  return pages > 0 && size > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(size) : 0;
}

// The instruction set that the option, or else the environment, or else the CPU says.
mica_status choose_isa(const char* option, const cpu::CpuInfo& info, cpu::Isa& out, Error& error) {
  out = info.best;
  const bool from_option = option != nullptr && option[0] != '\0';
  const char* wanted = from_option ? option : std::getenv("MICA_CPU_ISA");
  if (wanted == nullptr || wanted[0] == '\0') return MICA_OK;
  const char* who = from_option ? "the option" : "MICA_CPU_ISA";
  if (!cpu::isa_find(wanted, out)) {
    return error.fail(MICA_NOT_FOUND, who, " ", mica::quoted(wanted),
                      " of device cpu is none of plain, avx2, avx512");
  }
  if (out <= info.best) return MICA_OK;
  if (out > cpu::isa_newest())
    return error.fail(MICA_NO_DEVICE, who, " asks for ", wanted,
                      ", of which this build of mica has no kernels (MICA_CPU_NEWEST=",
                      cpu::isa_name(cpu::isa_newest()), ")");
  return error.fail(MICA_NO_DEVICE, who, " asks for ", wanted,
                    ", which this CPU does not have: ", info.name, " can do ",
                    cpu::isa_name(info.best));
}

void describe_cpu(const cpu::CpuInfo& info, cpu::Isa isa, mica_device_info* out) {
  *out = mica_device_info{};
  Writer(out->backend, sizeof out->backend).put("cpu");
  Writer(out->name, sizeof out->name).put(info.name, ", ", cpu::isa_name(isa));
  Writer options(out->options, sizeof out->options);
  for (uint32_t j = 0; j <= static_cast<uint32_t>(info.best); ++j) {
    options.put(j == 0 ? "" : ",", cpu::isa_name(static_cast<cpu::Isa>(j)));
  }
  out->memory_bytes = pages_bytes(_SC_PHYS_PAGES);
  out->free_bytes = pages_bytes(_SC_AVPHYS_PAGES);
  out->is_cpu = 1;
}

mica_status device_info(const mica_host*, uint32_t i, mica_device_info* out) {
  if (i != 0) return MICA_NOT_FOUND;
  const cpu::CpuInfo info = cpu::cpu_info();
  cpu::Isa isa = info.best;
  Error ignored;  // device_open reports it
  if (choose_isa("", info, isa, ignored) != MICA_OK) isa = info.best;
  describe_cpu(info, isa, out);
  return MICA_OK;
}

mica_status device_state(mica_b_device* device, mica_device_info* out) {
  describe_cpu(cpu::cpu_info(), device->isa, out);
  return MICA_OK;
}

uint32_t thread_count(const mica_host& host) {
  uint32_t n = host.n_threads != 0 ? host.n_threads : cpu::usable_cores();
  if (host.executor != nullptr && n > host.executor->n_threads) n = host.executor->n_threads;
  return n == 0 ? 1 : n > cpu::kMaxThreads ? cpu::kMaxThreads : n;
}

mica_status device_open(const mica_host* host, const char* option, mica_b_device** out) {
  *out = nullptr;
  Error error;
  const cpu::CpuInfo info = cpu::cpu_info();
  mica_b_device* device = mica::create<mica_b_device>(*host->allocator, *host);
  if (device == nullptr) return MICA_OUT_OF_MEMORY;
  mica_status status = choose_isa(option, info, device->isa, error);
  device->features = device->isa == cpu::Isa::avx512 ? info.features : cpu::Features{};
  if (host->executor != nullptr) {
    device->executor = *host->executor;
    device->host.executor = &device->executor;
  }
  if (status == MICA_OK) {
    status = device->pool.start(thread_count(*host), device->host.executor, error);
  }
  if (status != MICA_OK) {
    device->fail(error);
    mica::destroy(*host->allocator, device);
    return status;
  }
  *out = device;
  return MICA_OK;
}

void device_close(mica_b_device* device) {
  if (device == nullptr) return;
  const mica_allocator allocator = device->allocator;
  mica::destroy(allocator, device);
}

// --- Buffers ------------------------------------------------------------------------------------

constexpr uint64_t kBufferAlign = 256;
constexpr uint64_t kHugePage = uint64_t{2} << 20;

bool own_allocator(const mica_b_device& device) {
  return device.allocator.alloc != mica::default_allocator().alloc;
}

// Large buffers of the default allocator are mapped: zero without being written, and in huge pages
// where the system has them, which read 10 % faster.
bool map_buffer(mica_b_buffer& buffer) {
  const uint64_t bytes = mica::align_up(buffer.bytes, kHugePage) + kHugePage;
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return false;
  char* start = static_cast<char*>(p);
  char* aligned =
      reinterpret_cast<char*>(mica::align_up(reinterpret_cast<uint64_t>(start), kHugePage));
  const uint64_t before = static_cast<uint64_t>(aligned - start);
  const uint64_t kept = mica::align_up(buffer.bytes, kHugePage);
  if (before > 0) munmap(start, before);
  if (bytes - before - kept > 0) munmap(aligned + kept, bytes - before - kept);
  madvise(aligned, kept, MADV_HUGEPAGE);  // only advice: that it fails is no error
  buffer.data = aligned;
  buffer.mapped_bytes = kept;
  return true;
}

mica_status buffer_create(mica_b_device* device, uint64_t bytes, mica_b_buffer** out) {
  *out = nullptr;
  if (bytes > INT64_MAX) return MICA_OUT_OF_MEMORY;
  mica_b_buffer* buffer = mica::create<mica_b_buffer>(
      device->allocator, mica_b_buffer{device, nullptr, bytes, 0, false});
  if (buffer == nullptr) return MICA_OUT_OF_MEMORY;
  if (own_allocator(*device) || bytes < kHugePage) {
    buffer->data = static_cast<char*>(mica::allocate(device->allocator, bytes, kBufferAlign));
    if (buffer->data != nullptr) std::memset(buffer->data, 0, bytes);
  } else {
    map_buffer(*buffer);
  }
  if (buffer->data == nullptr) {
    mica::destroy(device->allocator, buffer);
    return MICA_OUT_OF_MEMORY;
  }
  *out = buffer;
  return MICA_OK;
}

mica_status buffer_import(mica_b_device* device, void* host, uint64_t bytes, mica_b_buffer** out) {
  const mica_b_buffer wrapped = {device, static_cast<char*>(host), bytes, 0, true};
  *out = mica::create<mica_b_buffer>(device->allocator, wrapped);
  return *out != nullptr ? MICA_OK : MICA_OUT_OF_MEMORY;
}

void buffer_free(mica_b_buffer* buffer) {
  if (buffer == nullptr) return;
  const mica_allocator& allocator = buffer->device->allocator;
  if (buffer->mapped_bytes > 0) {
    munmap(buffer->data, buffer->mapped_bytes);
  } else if (!buffer->imported) {
    mica::deallocate(allocator, buffer->data, buffer->bytes);
  }
  mica::destroy(allocator, buffer);
}

void* buffer_map(mica_b_buffer* buffer) { return buffer->data; }

mica_status buffer_write(mica_b_buffer* buffer, uint64_t offset, const void* src, uint64_t bytes) {
  if (!mica::range_fits(offset, bytes, buffer->bytes)) return MICA_INVALID_ARGUMENT;
  if (bytes > 0) std::memcpy(buffer->data + offset, src, bytes);
  return MICA_OK;
}

mica_status buffer_read(mica_b_buffer* buffer, uint64_t offset, void* dst, uint64_t bytes) {
  if (!mica::range_fits(offset, bytes, buffer->bytes)) return MICA_INVALID_ARGUMENT;
  if (bytes > 0) std::memcpy(dst, buffer->data + offset, bytes);
  return MICA_OK;
}

mica_status buffer_copy(mica_b_buffer* dst, uint64_t dst_offset, mica_b_buffer* src,
                        uint64_t src_offset, uint64_t bytes) {
  if (!mica::range_fits(dst_offset, bytes, dst->bytes)) return MICA_INVALID_ARGUMENT;
  if (!mica::range_fits(src_offset, bytes, src->bytes)) return MICA_INVALID_ARGUMENT;
  if (bytes > 0) std::memmove(dst->data + dst_offset, src->data + src_offset, bytes);
  return MICA_OK;
}

// --- Weights ------------------------------------------------------------------------------------

mica_status weight_layout(mica_b_device*, const mica_b_value* weight, uint32_t* out_layout,
                          uint64_t* out_bytes, uint32_t* out_granule_rows) {
  *out_layout = cpu::weight_layout(*weight, out_bytes, out_granule_rows);
  return *out_bytes != UINT64_MAX ? MICA_OK : MICA_INVALID_ARGUMENT;
}

// A range of rows in granules, moved by all threads.
struct Move {
  const mica_b_value* weight;
  char* data;
  char* rows;
  uint64_t first, n, rows_each, row_bytes;
  bool pack;
};

void move_piece(void* arg, int64_t i) {
  const Move& m = *static_cast<const Move*>(arg);
  const uint64_t at = static_cast<uint64_t>(i) * m.rows_each;
  const uint64_t n = m.n - at < m.rows_each ? m.n - at : m.rows_each;
  char* rows = m.rows + at * m.row_bytes;
  if (m.pack) {
    cpu::weight_pack(*m.weight, m.data, rows, m.first + at, n);
  } else {
    cpu::weight_unpack(*m.weight, m.data, rows, m.first + at, n);
  }
}

mica_status move_rows(mica_b_device* device, Move& move) {
  const mica_dtype_info* info = mica_dtype_get(move.weight->dtype);
  uint64_t bytes = 0;
  uint32_t granule = 0;
  cpu::weight_layout(*move.weight, &bytes, &granule);
  if (info == nullptr || bytes == UINT64_MAX || granule == 0) return MICA_INVALID_ARGUMENT;
  move.row_bytes =
      static_cast<uint64_t>(move.weight->dim[0]) / info->block_elems * info->block_bytes;
  // Pieces of about 256 KiB: enough work to share out, small enough to share evenly.
  const uint64_t wanted = (uint64_t{256} << 10) / (move.row_bytes + 1) + 1;
  move.rows_each = (wanted + granule - 1) / granule * granule;
  const uint64_t pieces = (move.n + move.rows_each - 1) / move.rows_each;
  device->pool.parallel(static_cast<int64_t>(pieces), move_piece, &move);
  return MICA_OK;
}

mica_status weight_pack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                        const void* rows, uint64_t first, uint64_t n) {
  // Read only, when packing.
  char* from = const_cast<char*>(static_cast<const char*>(rows));
  Move move = {weight, buffer->data + weight->offset, from, first, n, 0, 0, true};
  return move_rows(device, move);
}

mica_status weight_unpack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                          void* rows, uint64_t first, uint64_t n) {
  char* to = static_cast<char*>(rows);
  Move move = {weight, buffer->data + weight->offset, to, first, n, 0, 0, false};
  return move_rows(device, move);
}

// --- KV pages -----------------------------------------------------------------------------------

// 64 cells of n_kv_heads plain rows each, to a page or from it.
template <class Move>
mica_status walk_page(const mica_b_kv_desc& desc, mica_b_buffer* buffer, uint64_t offset,
                      const Move& move) {
  uint32_t layout = 0;
  uint64_t page_bytes = 0;
  MICA_TRY(cpu::kv_layout(buffer->device, &desc, &layout, &page_bytes));
  if (!mica::range_fits(offset, page_bytes, buffer->bytes)) return MICA_INVALID_ARGUMENT;
  const uint64_t row_bytes = cpu::kv_row_bytes(desc);
  for (uint32_t cell = 0; cell < cpu::kPageCellCount; ++cell)
    for (uint32_t head = 0; head < desc.n_kv_heads; ++head)
      move(buffer->data + offset, head, cell,
           (cell * uint64_t{desc.n_kv_heads} + head) * row_bytes);
  return MICA_OK;
}

mica_status kv_pack(mica_b_device*, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                    uint64_t offset, const void* rows) {
  const char* from = static_cast<const char*>(rows);
  return walk_page(*desc, buffer, offset,
                   [&](char* page, uint32_t head, uint32_t cell, uint64_t at) {
                     cpu::kv_pack_cell(*desc, page, head, cell, from + at);
                   });
}

mica_status kv_unpack(mica_b_device*, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                      uint64_t offset, void* rows) {
  char* to = static_cast<char*>(rows);
  return walk_page(*desc, buffer, offset,
                   [&](char* page, uint32_t head, uint32_t cell, uint64_t at) {
                     cpu::kv_unpack_cell(*desc, page, head, cell, to + at);
                   });
}

// --- Compiling ----------------------------------------------------------------------------------

mica_status supports(mica_b_device* device, const mica_b_partition* partition, uint32_t node,
                     char* reason, size_t capacity) {
  Writer why(reason, capacity);
  cpu::Bound bound;
  return cpu::bind(*device, *partition, {node, MICA_B_NONE}, nullptr, nullptr, bound, why);
}

mica_status value_layout(mica_b_device* device, const mica_b_partition* partition, uint32_t value,
                         uint32_t* out_layout, uint64_t* out_bytes) {
  cpu::value_layout(*device, *partition, value, out_layout, out_bytes);
  return MICA_OK;
}

uint32_t args_bytes(mica_b_device* device, uint32_t op) { return cpu::args_bytes(*device, op); }

mica_status claims(mica_b_device* device, const mica_b_partition* partition, uint32_t region,
                   char* reason, size_t capacity) {
  Writer why(reason, capacity);
  cpu::Bound bound;
  cpu::Call members[cpu::kMaxMembers];
  return cpu::bind(*device, *partition, {MICA_B_NONE, region}, nullptr, members, bound, why);
}

// "matmul.q4_0.packed.avx512", "silu.f32.avx2".
void describe(const mica_b_device& device, const cpu::Bound& bound, Writer& out) {
  const cpu::Call* call = &bound.call;
  for (uint32_t i = bound.call.n_members; i-- > 0;) {  // of a region its first matmul, or member
    const cpu::Call& member = bound.call.members[i];
    if (i == 0 && call->op == MICA_OP_matmul) break;
    if (i == 0 || member.op == MICA_OP_matmul) call = &member;
  }
  const mica_dtype_info* dtype = call->n_in > 0 ? mica_dtype_get(call->in[0].dtype) : nullptr;
  out.put(bound.kernel->name);
  if (dtype != nullptr) out.put(".", dtype->name);
  if (bound.kernel->variant[0] != '\0') out.put(".", bound.kernel->variant);
  out.put(".", cpu::isa_name(device.isa));
}

mica_status query(mica_b_device* device, const mica_b_partition* partition, uint32_t unit,
                  mica_b_need* out) {
  out->workspace_bytes = 0;
  out->numerics = MICA_NUM_EXACT;
  Writer kernel(out->kernel, sizeof out->kernel);
  char text[200];
  Writer reason(text, sizeof text);
  cpu::Bound bound;
  cpu::Call members[cpu::kMaxMembers];
  const mica_b_unit& u = partition->units[unit];
  const mica_status status =
      cpu::bind(*device, *partition, {u.node, u.region}, nullptr, members, bound, reason);
  if (status != MICA_OK || bound.kernel == nullptr) return status;
  if (bound.kernel->workspace != nullptr)
    out->workspace_bytes = bound.kernel->workspace(bound.call);
  if (bound.kernel->numerics != nullptr) out->numerics = bound.kernel->numerics(bound.call);
  describe(*device, bound, kernel);
  return MICA_OK;
}

const char* variants(mica_b_device* device, const mica_b_partition* partition, uint32_t unit,
                     uint32_t i) {
  const mica_b_unit& u = partition->units[unit];
  return cpu::variant(*device, *partition, {u.node, u.region}, i);
}

mica_status compile(mica_b_device* device, const mica_b_partition* partition,
                    mica_b_buffer* const* buffers, mica_b_plan** out) {
  *out = nullptr;
  Error error;
  mica_b_plan* plan = mica::create<mica_b_plan>(device->allocator, *device, *partition);
  if (plan == nullptr) return device->fail((error.out_of_memory("a plan"), error));
  const mica_status status = plan->compile(buffers, error);
  if (status != MICA_OK) {
    mica::destroy(device->allocator, plan);
    return device->fail(error);
  }
  *out = plan;
  return MICA_OK;
}

mica_status submit(mica_b_plan* plan) {
  Error error;
  const mica_status status = plan->submit(error);
  return status == MICA_OK ? status : plan->device().fail(error);
}
mica_status wait(mica_b_plan* plan) { return plan->wait(); }

void plan_release(mica_b_plan* plan) {
  if (plan == nullptr) return;
  mica::destroy(plan->device().allocator, plan);
}

uint64_t reserve(mica_b_device* device, const mica_b_partition* partition) {
  return partition == nullptr ? 0 : cpu::scratch_bytes(*device, *partition);
}

constexpr mica_backend kBackend = {
    sizeof(mica_backend),
    MICA_BACKEND_ABI,
    "cpu",
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
    cpu::kv_layout,
    kv_pack,
    kv_unpack,
    args_bytes,
    supports,
    claims,
    value_layout,
    query,
    compile,
    submit,
    wait,
    plan_release,
    reserve,
    variants,
};

}  // namespace

const mica_backend* mica_backend_cpu(void) { return &kBackend; }
