// What the tables of kernel rows have in common on every backend.
#pragma once
#include <stddef.h>

#include "mica/backend.h"

namespace mica {

// The output's number among a node's operands, behind those of the inputs.
constexpr uint32_t kOutputOperand = MICA_B_MAX_INPUTS;

// Rows of one list are told apart by name: with several, each has one of its own.
template <class Row, size_t n>
consteval bool rows_have_names(const Row (&rows)[n]) {
  for (size_t i = 0; n > 1 && i < n; ++i) {
    if (rows[i].variant[0] == '\0') return false;
    for (size_t k = 0; k < i; ++k) {
      const char *a = rows[i].variant, *b = rows[k].variant;
      while (*a != '\0' && *a == *b) ++a, ++b;
      if (*a == *b) return false;
    }
  }
  return true;
}

}  // namespace mica
