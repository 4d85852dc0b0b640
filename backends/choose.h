// Choosing a kernel for a unit: what the backends with tables of kernel rows have in common. A List
// has `rows` and `n`; a row has a `variant` (its name within the list), `supports` and `takes`; a
// Call is a node, or of a region has `members`.
#pragma once
#include <cstring>

#include "backends/kernel_row.h"
#include "backends/op_name.h"
#include "core/base/text.h"

namespace mica {

// Whether the row reads and writes every operand in the form that it lies in. Everything reads
// plain rows (layout 0); a weight, a cache's page or a temporary in a form of the backend's own
// reaches only the rows that say so.
template <class Row, class Call>
bool takes_layouts(const Row& row, const Call& call, Writer& reason) {
  for (uint32_t i = 0; i < call.n_members; ++i)
    if (!takes_layouts(row, call.members[i], reason)) return false;
  for (uint32_t k = 0; k <= call.n_in; ++k) {
    const bool output = k == call.n_in;
    const uint32_t layout = output ? call.out.layout : call.in[k].layout;
    if (layout == 0) continue;
    const uint32_t operand = output ? kOutputOperand : k;
    if (row.takes != nullptr && row.takes(call, operand, layout)) continue;
    if (reason.size() > 0) return false;
    if (output) reason.put("the output of ");
    if (!output) reason.put("input ", k, " of ");
    reason.put(op_name(call.op), " is in a layout of the device's own, not in plain rows");
    if (!output && call.in[k].storage == MICA_B_WEIGHT) reason.put(": mica_copy it first");
    return false;
  }
  return true;
}

// The first reason why not stays in `reason`.
template <class Row, class Call>
bool runs(const Row& row, const Call& call, Writer& reason) {
  if (!takes_layouts(row, call, reason)) return false;
  const char* no = row.supports != nullptr ? row.supports(call) : nullptr;
  if (no != nullptr && reason.size() == 0) reason.put(no);
  return no == nullptr;
}

template <class List>
bool has_row(const List& list, const char* variant) {
  for (uint32_t i = 0; i < list.n; ++i)
    if (std::strcmp(list.rows[i].variant, variant) == 0) return true;
  return false;
}

// The first row of the wanted name that runs the call, else the first of all rows that does;
// nullptr: none. A region without a row of that name is left to its members where one of them has
// it. `find_list` gives the List of an op's name, or nullptr.
template <class List, class Call, class FindList>
auto choose_row(const List& list, const Call& call, const char* variant, FindList find_list,
                Writer& reason) -> decltype(list.rows) {
  if (variant != nullptr) {
    for (uint32_t i = 0; i < list.n; ++i)
      if (std::strcmp(list.rows[i].variant, variant) == 0 && runs(list.rows[i], call, reason))
        return &list.rows[i];
    for (uint32_t i = 0; i < call.n_members; ++i) {
      const List* of_member = find_list(op_name(call.members[i].op));
      if (of_member == nullptr || !has_row(*of_member, variant)) continue;
      if (reason.size() == 0) reason.put("its members have kernels named ", variant);
      return nullptr;
    }
  }
  for (uint32_t i = 0; i < list.n; ++i)
    if (runs(list.rows[i], call, reason)) return &list.rows[i];
  if (reason.size() == 0) reason.put("its kernel list is empty");
  return nullptr;
}

// The name of the i-th of the rows with a name that run the call; nullptr behind the last.
template <class List, class Call>
const char* nth_variant(const List& list, const Call& call, uint32_t i) {
  char text[1];
  Writer ignored(text, sizeof text);
  for (uint32_t k = 0; k < list.n; ++k) {
    const auto& row = list.rows[k];
    if (row.variant[0] == '\0' || !runs(row, call, ignored)) continue;
    if (i-- == 0) return row.variant;
  }
  return nullptr;
}

}  // namespace mica
