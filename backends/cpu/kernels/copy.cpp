// copy: values packed, in the same or another dtype. Reads weights in both layouts.
#include "backends/cpu/kernels/elements.h"
#include "backends/cpu/quant/rows16.h"
#include "ops/copy_args.h"

MICA_CPU_BEGIN
namespace {

bool is_int(mica_dtype dtype) { return dtype == MICA_I32 || dtype == MICA_I64; }
bool is_plain(mica_dtype dtype) { return is_float(dtype) || is_int(dtype); }

// A packed tensor that stays what it is is one run of bytes, else a row is an item.
bool is_run(const Call& call) {
  const Tensor& x = call.in[0];
  return x.layout == kLayoutPlain && is_plain(x.dtype) && is_plain(call.out.dtype) && packed(x);
}
Cut copy_cut(const Call& call) {
  if (is_run(call)) return cut(call.out, true);
  return {call.out.dim[0], 1, false};
}
int64_t items(const Call& call, uint32_t) { return cut_items(call.out, copy_cut(call)); }
int64_t grain(const Call& call, uint32_t) { return cut_grain(copy_cut(call)); }
uint64_t scratch(const Call& call) {
  return static_cast<uint64_t>(max_i64(call.out.dim[0], kChunk)) * 4;
}

// To the nearest float, or, with `odd`, towards zero with the last bit set when that is not exact:
// then rounding again, to a narrower type, gives what rounding once would.
float int_to_float(int64_t value, bool odd) {
  if (!odd) return static_cast<float>(value);
  uint64_t u =
      value < 0 ? uint64_t{0} - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  if (u >= (uint64_t{1} << 24)) {
    const int shift = 64 - 24 - __builtin_clzll(u);
    const uint64_t lost = u & ((uint64_t{1} << shift) - 1);
    u = ((u >> shift) | (lost != 0 ? 1u : 0u)) << shift;
  }
  const float f = static_cast<float>(u);
  return value < 0 ? -f : f;
}
// Half to even; what is too large becomes the largest, NaN becomes 0.
int64_t float_to_int(float f, mica_dtype dtype) {
  if (f != f) return 0;
  const bool wide = dtype == MICA_I64;
  const float limit = wide ? 0x1p63f : 0x1p31f;
  if (f >= limit) return wide ? INT64_MAX : INT32_MAX;
  if (f < -limit) return wide ? INT64_MIN : INT32_MIN;
  const float magnitude = f < 0 ? -f : f;
  if (magnitude >= 0x1p23f) return static_cast<int64_t>(f);
  const float magic = f < 0 ? -0x1p23f : 0x1p23f;
  return static_cast<int64_t>((f + magic) - magic);  // in between there is no place for a fraction
}

int64_t int_at(mica_dtype dtype, const char* p) {
  return dtype == MICA_I32 ? *reinterpret_cast<const int32_t*>(p)
                           : *reinterpret_cast<const int64_t*>(p);
}
void put_int(mica_dtype dtype, char* p, int64_t value) {
  if (dtype == MICA_I64) {
    *reinterpret_cast<int64_t*>(p) = value;
    return;
  }
  const int64_t v = value > INT32_MAX ? INT32_MAX : value < INT32_MIN ? INT32_MIN : value;
  *reinterpret_cast<int32_t*>(p) = static_cast<int32_t>(v);
}

void copy_units(const char* src, int64_t stride, int64_t n, int64_t bytes, char* dst) {
  if (stride == bytes || n == 1) {
    __builtin_memcpy(dst, src, static_cast<size_t>(n * bytes));
  } else if (bytes == 4) {
    for (int64_t i = 0; i < n; ++i) __builtin_memcpy(dst + i * 4, src + i * stride, 4);
  } else if (bytes == 2) {
    for (int64_t i = 0; i < n; ++i) __builtin_memcpy(dst + i * 2, src + i * stride, 2);
  } else {
    for (int64_t i = 0; i < n; ++i) {
      __builtin_memcpy(dst + i * bytes, src + i * stride, static_cast<size_t>(bytes));
    }
  }
}

// n elements of plain types from `at` on, of a row that starts at `src`; the result's at `dst`.
void convert(const Tensor& x, const char* src, int64_t at, int64_t n, mica_dtype to, char* dst,
             float* buffer) {
  const char* from = src + at * x.stride[0];
  if (x.dtype == to) return copy_units(from, x.stride[0], n, elem_bytes(to), dst);
  if (is_int(x.dtype) && is_int(to)) {
    for (int64_t i = 0; i < n; ++i) {
      put_int(to, dst + i * elem_bytes(to), int_at(x.dtype, from + i * x.stride[0]));
    }
    return;
  }
  Tensor out{};
  out.dtype = to;
  if (is_int(x.dtype)) {
    for (int64_t i = 0; i < n; ++i) {
      buffer[i] = int_to_float(int_at(x.dtype, from + i * x.stride[0]), to != MICA_F32);
    }
    return write_floats(out, dst, 0, n, buffer);
  }
  const float* f = read_floats(x, src, at, n, buffer);
  if (!is_int(to)) return write_floats(out, dst, 0, n, f);
  for (int64_t i = 0; i < n; ++i) put_int(to, dst + i * elem_bytes(to), float_to_int(f[i], to));
}

// A row of a weight in kLayoutRows16, as its own plain blocks.
void unpack_row16(const Tensor& w, int64_t row, uint8_t* dst) {
  const Rows16& t = *find_rows16(w.dtype);
  const int64_t n = w.dim[0];
  const int64_t row_bytes = n * t.block_bytes / t.block_elems;
  const uint8_t* record =
      reinterpret_cast<const uint8_t*>(w.data) + row / kGroupRows * t.group_bytes(n);
  const uint32_t lane = static_cast<uint32_t>(row % kGroupRows);
  uint32_t i = 0;
  for (int64_t at = 0; at < row_bytes; at += t.block_bytes) {
    uint8_t block[256];
    t.unpack(record, i, lane, block);
    const int64_t bytes = min_i64(t.block_bytes, row_bytes - at);
    __builtin_memcpy(dst + at, block, static_cast<size_t>(bytes));
    if (++i == t.blocks) {
      i = 0;
      record += t.record_bytes;
    }
  }
}

void copy_row(const Call& call, int64_t row, float* buffer) {
  const Tensor& x = call.in[0];
  const mica_dtype to = call.out.dtype;
  const int64_t n = call.out.dim[0];
  char* dst = row_at(call.out, row);
  if (x.layout == kLayoutRows16) {
    if (x.dtype == to) return unpack_row16(x, row, reinterpret_cast<uint8_t*>(dst));
    decode_row16(x, row, buffer);
    Tensor floats{};
    floats.dtype = MICA_F32;
    floats.dim[0] = n;
    floats.stride[0] = 4;
    if (is_plain(to)) {
      return convert(floats, reinterpret_cast<const char*>(buffer), 0, n, to, dst, buffer);
    }
    mica_dtype_encode(to, buffer, dst, static_cast<size_t>(n));
    return;
  }
  const char* src = row_at(x, row);
  if (is_plain(x.dtype) && is_plain(to)) return convert(x, src, 0, n, to, dst, buffer);
  if (x.dtype == to) {
    const mica_dtype_info* info = mica_dtype_get(to);
    return copy_units(src, x.stride[0], n / info->block_elems, info->block_bytes, dst);
  }
  if (to == MICA_F32) {
    const mica_dtype_info* info = mica_dtype_get(x.dtype);
    float* y = reinterpret_cast<float*>(dst);
    for (int64_t i = 0; i < n; i += info->block_elems, src += x.stride[0]) {
      decode_plain(x.dtype, src, info->block_elems, y + i);
    }
    return;
  }
  mica_dtype_encode(to, read_floats(x, src, 0, n, buffer), dst, static_cast<size_t>(n));
}

void run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch_bytes) {
  float* buffer = reinterpret_cast<float*>(scratch_bytes);
  const Cut c = copy_cut(call);
  for (int64_t item = first; item < end; ++item) {
    if (!c.flat) {
      copy_row(call, item, buffer);
      continue;
    }
    const int64_t at = item * kChunk;
    const int64_t n = min_i64(kChunk, c.row_elems - at);
    Tensor x = call.in[0];
    x.stride[0] = elem_bytes(x.dtype);  // one run, whatever a dimension of 1 says
    x.dim[0] = n;
    convert(x, x.data, at, n, call.out.dtype, call.out.data + at * elem_bytes(call.out.dtype),
            buffer);
  }
}

bool takes(const Call&, uint32_t operand, uint32_t layout) {
  return operand == 0 && layout == kLayoutRows16;
}

constexpr Kernel kRows[] = {
    {"copy", "", 1, nullptr, numerics_exact, nullptr, scratch, items, run, grain, nullptr, false,
     takes},
};

}  // namespace
MICA_CPU_KERNELS(copy, kRows, MICA_KNOWS(copy, dtype))
MICA_CPU_END
