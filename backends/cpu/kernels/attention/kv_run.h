// Sixteen cells of K that lie side by side in a page (kv_page.h), a lane each: decoded and encoded
// as kv_row.h does one of them, bit by bit. Loops over lanes become vectors.
#pragma once
#include "backends/cpu/kernels/attention/kv_row.h"

MICA_CPU_BEGIN
namespace {

// Element i of lane c is x[i][c].
using RunRow = float[kRunCells];

static inline void store_elem(const KvPage& p, const RunRow& x, char* to) {
  uint16_t* halves = reinterpret_cast<uint16_t*>(to);
  if (p.dtype == MICA_F16) return store_f16(halves, load(x));
  if (p.dtype == MICA_BF16) return store_bf16(halves, load(x));
  __builtin_memcpy(to, x, sizeof x);
}

static inline f32x16 load_elem(const KvPage& p, const char* from) {
  const uint16_t* halves = reinterpret_cast<const uint16_t*>(from);
  return p.dtype == MICA_F32   ? load(reinterpret_cast<const float*>(from))
         : p.dtype == MICA_F16 ? load_f16(halves)
                               : load_bf16(halves);
}

static inline void decode_run_block(const KvPage& p, const char* block, RunRow* x) {
  RunRow d, m;
  store(d, load_f16(reinterpret_cast<const uint16_t*>(block)));
  store(m, p.n_halves == 2 ? load_f16(reinterpret_cast<const uint16_t*>(block + 32)) : zero());
  const uint8_t* q = reinterpret_cast<const uint8_t*>(block + p.n_halves * 32);
  const int64_t n_fifths = p.quant_bytes - 16;  // bytes
  for (int64_t j = 0; j < kQuantElems; ++j) {
    int32_t value[kRunCells];
    if (p.dtype == MICA_Q8_0) {
      for (int64_t c = 0; c < kRunCells; ++c) value[c] = static_cast<int8_t>(q[j * 16 + c]);
    } else {
      const uint8_t* nibbles = q + (n_fifths + j % 16) * 16;
      const int shift = j < 16 ? 0 : 4;
      for (int64_t c = 0; c < kRunCells; ++c) value[c] = nibbles[c] >> shift & 15;
      const uint8_t* fifths = q + j / 8 * 16;
      for (int64_t c = 0; n_fifths != 0 && c < kRunCells; ++c)
        value[c] |= (fifths[c] >> j % 8 & 1) << 4;
    }
    for (int64_t c = 0; c < kRunCells; ++c)
      x[j][c] = d[c] * static_cast<float>(value[c] - p.centre);
    for (int64_t c = 0; p.n_halves == 2 && c < kRunCells; ++c) x[j][c] += m[c];
  }
}

// Zeros from head_dim up to whole blocks.
static inline void decode_run(const KvPage& p, const char* head, int64_t run, RunRow* x) {
  if (p.elem_bytes != 0) {
    const char* from = head + k_elem_at(p, run * kRunCells, 0);
    for (int64_t i = 0; i < p.head_dim; ++i)
      store(x[i], load_elem(p, from + i * kRunCells * p.elem_bytes));
    return;
  }
  for (int64_t block = 0; block < p.n_blocks; ++block)
    decode_run_block(p, head + k_block_at(p, run, block), x + block * kQuantElems);
  for (int64_t i = p.head_dim; i < p.n_blocks * kQuantElems; ++i) store(x[i], zero());
}

using RunQuants = uint8_t[kQuantElems][kRunCells];

static inline void limit_run(RunRow* x, float limit) {
  for (int64_t i = 0; i < kQuantElems; ++i)
    for (int64_t c = 0; c < kRunCells; ++c) x[i][c] = within(x[i][c], limit);
}

static inline void put_scales(const RunRow& d, char* block, RunRow* inverse) {
  uint16_t halves[kRunCells];
  for (int64_t c = 0; c < kRunCells; ++c) halves[c] = mica::f32_to_f16(d[c]);
  for (int64_t c = 0; c < kRunCells; ++c) (*inverse)[c] = inverse_scale(d[c], halves[c]);
  __builtin_memcpy(block, halves, sizeof halves);
}

static inline void encode_run_q8_0(RunRow* x, char* block) {
  RunRow d = {}, inverse;
  limit_run(x, 127 * kLargestF16);
  for (int64_t i = 0; i < kQuantElems; ++i)
    for (int64_t c = 0; c < kRunCells; ++c) d[c] = abs_of(x[i][c]) > d[c] ? abs_of(x[i][c]) : d[c];
  for (int64_t c = 0; c < kRunCells; ++c) d[c] /= 127.0f;
  put_scales(d, block, &inverse);
  for (int64_t i = 0; i < kQuantElems; ++i)
    for (int64_t c = 0; c < kRunCells; ++c)
      block[32 + i * 16 + c] = static_cast<char>(mica::round_even(x[i][c] * inverse[c]));
}

static inline void put_run_quants(const RunQuants& q, bool has_fifths, char* to) {
  for (int64_t i = 0; has_fifths && i < 4; ++i, to += kRunCells) {
    uint8_t bits[kRunCells] = {};
    for (int64_t j = 0; j < 8; ++j)
      for (int64_t c = 0; c < kRunCells; ++c)
        bits[c] = static_cast<uint8_t>(bits[c] | (q[8 * i + j][c] >> 4) << j);
    __builtin_memcpy(to, bits, sizeof bits);
  }
  for (int64_t i = 0; i < 16; ++i)
    for (int64_t c = 0; c < kRunCells; ++c)
      to[i * 16 + c] = static_cast<char>((q[i][c] & 15) | (q[i + 16][c] & 15) << 4);
}

template <int32_t kZero>
static inline void encode_run_symmetric(RunRow* x, char* block) {
  RunRow d = {}, inverse;
  RunQuants q;
  limit_run(x, kZero * kLargestF16);
  for (int64_t i = 0; i < kQuantElems; ++i)
    for (int64_t c = 0; c < kRunCells; ++c) d[c] = abs_of(x[i][c]) > abs_of(d[c]) ? x[i][c] : d[c];
  for (int64_t c = 0; c < kRunCells; ++c) d[c] /= static_cast<float>(-kZero);
  put_scales(d, block, &inverse);
  for (int64_t i = 0; i < kQuantElems; ++i)
    for (int64_t c = 0; c < kRunCells; ++c)
      q[i][c] = static_cast<uint8_t>(
          clamp_quant(mica::round_even(x[i][c] * inverse[c]) + kZero, 2 * kZero - 1));
  put_run_quants(q, kZero == 16, block + 32);
}

template <int32_t kLast>
static inline void encode_run_range(RunRow* x, char* block) {
  RunRow low, high, d, inverse, of_low;
  RunQuants q;
  limit_run(x, kLargestF16);
  __builtin_memcpy(low, x[0], sizeof low);
  __builtin_memcpy(high, x[0], sizeof high);
  for (int64_t i = 1; i < kQuantElems; ++i)
    for (int64_t c = 0; c < kRunCells; ++c) {
      low[c] = x[i][c] < low[c] ? x[i][c] : low[c];
      high[c] = x[i][c] > high[c] ? x[i][c] : high[c];
    }
  for (int64_t c = 0; c < kRunCells; ++c) d[c] = (high[c] - low[c]) / static_cast<float>(kLast);
  put_scales(d, block, &inverse);
  put_scales(low, block + 32, &of_low);
  for (int64_t i = 0; i < kQuantElems; ++i)
    for (int64_t c = 0; c < kRunCells; ++c)
      q[i][c] = static_cast<uint8_t>(
          clamp_quant(mica::round_even((x[i][c] - low[c]) * inverse[c]), kLast));
  put_run_quants(q, kLast == 31, block + 64);
}

// Changes x.
static inline void encode_run(const KvPage& p, RunRow* x, char* head, int64_t run) {
  if (p.dtype == MICA_F32) make_quiet(x[0], p.head_dim * kRunCells);
  char* const to = p.elem_bytes != 0 ? head + k_elem_at(p, run * kRunCells, 0) : head;
  for (int64_t i = 0; p.elem_bytes != 0 && i < p.head_dim; ++i)
    store_elem(p, x[i], to + i * kRunCells * p.elem_bytes);
  for (int64_t i = 0; i < p.n_blocks; ++i) {
    RunRow* const from = x + i * kQuantElems;
    char* const block = head + k_block_at(p, run, i);
    if (p.dtype == MICA_Q8_0) encode_run_q8_0(from, block);
    if (p.dtype == MICA_Q4_0) encode_run_symmetric<8>(from, block);
    if (p.dtype == MICA_Q5_0) encode_run_symmetric<16>(from, block);
    if (p.dtype == MICA_Q4_1) encode_run_range<15>(from, block);
    if (p.dtype == MICA_Q5_1) encode_run_range<31>(from, block);
  }
}

}  // namespace
MICA_CPU_END
