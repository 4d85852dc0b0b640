// The program's own copy of the reference backend, in which kv_append stores imposed cells.
#include "tests/fuzz/graph_cells.h"

#include "core/graph/op.h"

namespace mica::fuzz {
namespace {

const Cells* imposed = nullptr;
size_t n_appended = 0;

mica_status call_ref(const OpDef& op, const RefCall& call) {
  const mica_status status = op.reference(call);
  if (imposed == nullptr || op.id != MICA_OP_kv_append || status != MICA_OK) return status;
  if (n_appended == imposed->size()) return MICA_INTERNAL;
  const std::vector<unsigned char>& cells = (*imposed)[n_appended++];
  const HostTensor &state = call.out, &slots = call.in[2];
  const auto bytes = static_cast<size_t>(state.stride[2]);
  size_t at = 0;
  for (int64_t t = 0; t < slots.dim[0]; ++t) {
    const int64_t slot = slots.int_at(t);
    if (slot < 0 || slot >= state.dim[2]) continue;
    if (at + bytes > cells.size()) return MICA_INTERNAL;
    std::memcpy(static_cast<char*>(state.data) + slot * state.stride[2], &cells[at], bytes);
    at += bytes;
  }
  return at == cells.size() ? MICA_OK : MICA_INTERNAL;
}

}  // namespace

void impose_cells(const Cells* cells) {
  imposed = cells;
  n_appended = 0;
}

}  // namespace mica::fuzz

#define MICA_REF_CALL(partition, node, op, call) mica::fuzz::call_ref(op, call)
#include "backends/ref/backend.cpp"
