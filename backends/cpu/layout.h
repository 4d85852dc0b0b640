// How weights lie in memory on the CPU, and moving plain rows in and out of that layout.
#pragma once
#include "backends/cpu/kernel.h"

namespace mica::cpu {

// The layout (kLayoutPlain or kLayoutRows16), its bytes (UINT64_MAX when they do not fit in 63
// bits) and the rows that pack and unpack take at a time.
uint32_t weight_layout(const mica_b_value& weight, uint64_t* out_bytes, uint32_t* out_granule_rows);

// Rows [first, first + n), counted over dims 1…3, to or from the weight's place; `first` is a
// multiple of the granule, and so is n except at the end. Different ranges may run at the same
// time.
void weight_pack(const mica_b_value& weight, char* data, const void* rows, uint64_t first,
                 uint64_t n);
void weight_unpack(const mica_b_value& weight, const char* data, void* rows, uint64_t first,
                   uint64_t n);

}  // namespace mica::cpu
