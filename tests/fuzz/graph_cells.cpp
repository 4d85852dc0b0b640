// The program's own copy of the reference backend, in which state ops store imposed cells.
#include "tests/fuzz/graph_cells.h"

#include <cstring>

#include "core/graph/op.h"
#include "mica/kv_table.h"

namespace mica::fuzz {
namespace {

const Cells* imposed = nullptr;
size_t n_stored = 0;

// The cells that a state op writes, in the order in which the guard notes them.
std::vector<int64_t> cells_written(const OpDef& op, const RefCall& call) {
  std::vector<int64_t> cells;
  if (op.id == MICA_OP_kv_append)
    for (int64_t t = 0; t < call.in[2].dim[0]; ++t) cells.push_back(call.in[2].int_at(t));
  if (op.id != MICA_OP_kv_shift) return cells;
  for (int64_t e = 0; e < call.in[1].int_at(0); ++e) {
    const auto at = [&](int64_t k) { return call.in[1].int_at(1 + e * MICA_KV_SHIFT_WORDS + k); };
    for (int64_t i = 0; i < at(MICA_KV_SHIFT_N_CELLS); ++i)
      if ((at(MICA_KV_SHIFT_FROM) + i) / at(MICA_KV_SHIFT_FROM_DIV) !=
          (at(MICA_KV_SHIFT_TO) + i) / at(MICA_KV_SHIFT_TO_DIV))
        cells.push_back(at(MICA_KV_SHIFT_PAGE) * MICA_KV_PAGE_CELLS + at(MICA_KV_SHIFT_FIRST_CELL) +
                        i);
  }
  return cells;
}

mica_status call_ref(const OpDef& op, const RefCall& call) {
  const mica_status status = op.reference(call);
  const bool stores = op.id == MICA_OP_kv_append || op.id == MICA_OP_kv_shift;
  if (imposed == nullptr || !stores || status != MICA_OK) return status;
  if (n_stored == imposed->size()) return MICA_INTERNAL;
  const std::vector<unsigned char>& cells = (*imposed)[n_stored++];
  const HostTensor& state = call.out;
  const auto bytes = static_cast<size_t>(state.stride[2]);
  size_t at = 0;
  for (const int64_t cell : cells_written(op, call)) {
    if (cell < 0 || cell >= state.dim[2]) continue;
    if (at + bytes > cells.size()) return MICA_INTERNAL;
    std::memcpy(static_cast<char*>(state.data) + cell * state.stride[2], &cells[at], bytes);
    at += bytes;
  }
  return at == cells.size() ? MICA_OK : MICA_INTERNAL;
}

}  // namespace

void impose_cells(const Cells* cells) {
  imposed = cells;
  n_stored = 0;
}

}  // namespace mica::fuzz

#define MICA_REF_CALL(partition, node, op, call) mica::fuzz::call_ref(op, call)
#include "backends/ref/backend.cpp"
