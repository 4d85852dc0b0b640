#!/usr/bin/env python3
"""Makes ops/<op>.json: small vectors that check the double-precision references of ops.

  python3 make_ops.py [OUT_DIR]

Needs numpy. Written from the formulas in the public headers, in float64, without looking at mica's
code: quantized blocks are decoded and rounding is done here in its own way. A file is a list of
cases {name, in, out, args, numerics (f64), ulps (0)}; a tensor is {dtype, dim (fastest first),
stride and offset (bytes, when not packed), data (hex of the bytes, little-endian)}; ulps says how
far an element may be from the stored one (0: bit by bit).
"""

import json
import math
import pathlib
import sys

import numpy as np

RNG = np.random.default_rng(20240917)
SIZE = {"f32": 4, "f16": 2, "bf16": 2, "i32": 4, "i64": 8}


# --- Numbers -----------------------------------------------------------------------------------

def to_bf16(values):
  """float64 -> bf16 bits, rounded once, half to even, by integer arithmetic on 2^-133 units."""
  out = np.zeros(values.shape, np.uint16)
  for i, v in np.ndenumerate(values):
    sign = 0x8000 if math.copysign(1, v) < 0 else 0
    v = abs(float(v))
    if math.isnan(v):
      bits = 0x7fc0
    elif math.isinf(v):
      bits = 0x7f80
    elif v == 0:
      bits = 0
    else:
      exponent = max(math.frexp(v)[1] - 1, -126)  # 2^exponent <= v
      quanta = round(math.ldexp(v, 7 - exponent))  # exact scaling; round() is half to even
      bits = min((exponent + 126 << 7) + quanta, 0x7f80)
    out[i] = sign | bits
  return out


def from_bf16(bits):
  return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def encode(dtype, values):
  """Array in C order, fastest dimension last -> bytes."""
  values = np.asarray(values)
  with np.errstate(over="ignore"):
    if dtype == "f32":
      return values.astype("<f4").tobytes()
    if dtype == "f16":
      return values.astype("<f2").tobytes()
  if dtype == "bf16":
    return to_bf16(values.astype(np.float64)).astype("<u2").tobytes()
  return values.astype({"i32": "<i4", "i64": "<i8"}[dtype]).tobytes()


def rounded(dtype, values):
  """The values a tensor of this dtype holds, as float64."""
  values = np.asarray(values, np.float64)
  if dtype == "bf16":
    return from_bf16(to_bf16(values))
  with np.errstate(over="ignore"):
    return values.astype({"f32": "<f4", "f16": "<f2"}[dtype]).astype(np.float64)


def random(dtype, dim, sigma=1.0, mean=0.0):
  return rounded(dtype, RNG.normal(mean, sigma, dim[::-1]))


# --- Quantized rows, decoded from random blocks --------------------------------------------------

def halves(n, low, high):
  return RNG.uniform(low, high, n).astype("<f2")


def q8_0_rows(k, n):
  blocks = k // 32 * n
  d = halves(blocks, 0.001, 0.02)
  q = RNG.integers(-127, 128, (blocks, 32), dtype=np.int8)
  raw = b"".join(d[i].tobytes() + q[i].tobytes() for i in range(blocks))
  return raw, (d.astype(np.float64)[:, None] * q).reshape(n, k)


def q4_0_rows(k, n):
  blocks = k // 32 * n
  d = halves(blocks, -0.1, 0.1)
  q = RNG.integers(0, 16, (blocks, 32), dtype=np.uint8)
  raw = b"".join(d[i].tobytes() + (q[i, :16] | q[i, 16:] << 4).tobytes() for i in range(blocks))
  return raw, (d.astype(np.float64)[:, None] * (q.astype(int) - 8)).reshape(n, k)


def q4_k_rows(k, n):
  raw, values = b"", []
  for _ in range(k // 256 * n):
    d, dmin = halves(2, 0.001, 0.01)
    scale = RNG.integers(0, 64, 8)
    least = RNG.integers(0, 64, 8)
    q = RNG.integers(0, 16, (8, 32), dtype=np.uint8)
    packed = [0] * 12
    for j in range(4):
      packed[j] = int(scale[j]) | (int(scale[j + 4]) >> 4) << 6
      packed[j + 4] = int(least[j]) | (int(least[j + 4]) >> 4) << 6
      packed[j + 8] = (int(scale[j + 4]) & 15) | (int(least[j + 4]) & 15) << 4
    nibbles = b"".join((q[j] | q[j + 1] << 4).tobytes() for j in range(0, 8, 2))
    raw += d.tobytes() + dmin.tobytes() + bytes(packed) + nibbles
    # scale and minimum products are exact; the difference is rounded to f32 by the decoder
    block = float(d) * scale[:, None] * q.astype(int) - float(dmin) * least[:, None]
    values.append(block.astype(np.float32).astype(np.float64).reshape(256))
  return raw, np.concatenate(values).reshape(n, k)


# --- Cases -------------------------------------------------------------------------------------

def tensor(dtype, values, dim=None):
  values = np.asarray(values)
  dim = list(values.shape[::-1]) if dim is None else dim
  return {"dtype": dtype, "dim": dim, "data": encode(dtype, values).hex()}


def raw_tensor(dtype, dim, raw):
  return {"dtype": dtype, "dim": dim, "data": raw.hex()}


def strided(dtype, values, axes, cut=None):
  """A view of a packed tensor: axes[i] is the dimension (fastest first) that becomes i; cut gives
  (start, length) of each dimension before. -> (tensor, the view's values)"""
  values = np.asarray(values)
  n = values.ndim
  base = [SIZE[dtype] * int(np.prod(values.shape[n - i:])) for i in range(n)]
  cut = cut or [(0, s) for s in values.shape[::-1]]
  offset = sum(base[i] * cut[i][0] for i in range(n))
  view = values[tuple(slice(a, a + b) for a, b in cut[::-1])]
  view = view.transpose([n - 1 - axes[n - 1 - i] for i in range(n)])
  t = tensor(dtype, values)
  t["dim"] = list(view.shape[::-1])
  t["stride"] = [base[a] for a in axes]
  t["offset"] = offset
  return t, view


class Cases:
  def __init__(self):
    self.ops = {}

  def add(self, op, name, inputs, out, args=(), numerics="f64", ulps=0):
    case = {"name": name, "in": inputs, "out": out}
    if args:
      case["args"] = [{"f": a} if isinstance(a, float) else {"u": a} for a in args]
    if numerics != "f64":
      case["numerics"] = numerics
    if ulps != 0:
      case["ulps"] = ulps
    self.ops.setdefault(op, []).append(case)


def dot(a, b):
  terms = a * b
  return math.fsum(terms) if np.isfinite(terms).all() else np.sum(terms)


def product(w, x):
  """w (c3, c2, N, K), x (b3, b2, M, K) -> (b3, b2, M, N), one dot product at a time."""
  out = np.zeros(x.shape[:3] + (w.shape[2],))
  for i3, i2 in np.ndindex(x.shape[:2]):
    slab = w[i3 * w.shape[0] // x.shape[0], i2 * w.shape[1] // x.shape[1]]
    for m in range(x.shape[2]):
      for n in range(w.shape[2]):
        out[i3, i2, m, n] = dot(slab[n], x[i3, i2, m])
  return out


def q8(x, block):
  x = x.astype(np.float32)
  out = np.zeros(x.shape)
  for i in np.ndindex(x.shape[:-1]):
    for first in range(0, x.shape[-1], block):
      part = x[i][first:first + block]
      amax = np.max(np.abs(part))
      if amax == 0:
        continue
      q = np.rint(part * (np.float32(127) / amax)).astype(np.float64)
      out[i][first:first + block] = q * np.float64(amax / np.float32(127))
  return out


def four(x):
  return x.reshape((1,) * (4 - x.ndim) + x.shape)


def matmul(c):
  def add(name, w_t, w, x_t, x, numerics="f64"):
    y = product(four(w), four(x))
    dim = [w.shape[-2]] + x_t["dim"][1:]
    c.add("matmul", name, [w_t, x_t], tensor("f32", y, dim), numerics=numerics, ulps=1)

  w, x = random("f32", [5, 3, 2, 1]), random("f32", [5, 2, 4, 3])
  add("broadcast", tensor("f32", w), w, tensor("f32", x), x)
  w, x = random("f16", [9, 4]), random("bf16", [9, 3])
  add("f16.bf16", tensor("f16", w), w, tensor("bf16", x), x)
  w_t, w = strided("bf16", random("bf16", [6, 3, 4]), [0, 2, 1])
  x_t, x = strided("f16", random("f16", [8, 3, 4]), [0, 1, 2], [(2, 6), (1, 2), (1, 3)])
  add("strided", w_t, w, x_t, x)
  for dtype, make in (("q8_0", q8_0_rows), ("q4_0", q4_0_rows), ("q4_k", q4_k_rows)):
    k = 256 if dtype == "q4_k" else 64
    raw, w = make(k, 2)
    x = random("f16", [k, 2])
    add(dtype, raw_tensor(dtype, [k, 2], raw), w, tensor("f16", x), x)
  w, x = random("f32", [40, 1]), random("f32", [40, 2], 2)
  for name in ("f16", "bf16"):
    add("numerics." + name, tensor("f32", w), w, tensor("f32", x), rounded(name, x), name)
  w, x = random("bf16", [290, 1], 0.1), random("f16", [290, 1], 2)
  x[0, 32:64] = 0
  x[0, 77] = 90
  for block in (32, 256):
    name = f"q8_{block}"
    add("numerics." + name, tensor("bf16", w), w, tensor("f16", x), q8(x, block), name)
  # Sums that cancel and terms that are not finite.
  w = np.array([[1e10, 1, -1e10], [1, 0, 0], [1, 1, 1]])
  x = np.array([[1.0, 1, 1], [np.inf, 1, 1], [1, -np.inf, np.inf], [1e-40, 0, 0]])
  with np.errstate(invalid="ignore"):
    y = np.array([[dot(rounded("f32", r), row) for r in w] for row in rounded("f32", x)])
  c.add("matmul", "special", [tensor("f32", w), tensor("f32", x)], tensor("f32", y), ulps=1)


def rows(c):
  raw, values = q4_0_rows(64, 5)
  ids = [4, 0, -1, 5, 4]
  picked = np.array([values[i] if 0 <= i < 5 else np.zeros(64) for i in ids])
  c.add("get_rows", "q4_0", [raw_tensor("q4_0", [64, 5], raw), tensor("i32", ids)],
        tensor("f32", picked))
  for dtype in ("f32", "f16", "bf16"):
    table_t, table = strided(dtype, random(dtype, [7, 6]), [0, 1], [(2, 4), (1, 4)])
    c.add("get_rows", dtype, [table_t, tensor("i32", [3, 3, 0])], tensor("f32", table[[3, 3, 0]]))
  table = np.array([[2**24 + 1, -7], [2**31 - 1, 2**24 + 3]])
  c.add("get_rows", "i32", [tensor("i32", table), tensor("i32", [1, 0])],
        tensor("f32", table[[1, 0]].astype(np.float64)))
  table = np.array([[2**53 + 1, 2**24 + 1]])
  c.add("get_rows", "i64", [tensor("i64", table), tensor("i32", [0])],
        tensor("f32", table.astype(np.float32)))

  for dst_type in ("f32", "f16", "bf16"):
    for src_type in ("f32", "f16", "bf16"):
      dst, src = random(dst_type, [6, 4]), random(src_type, [6, 4], 3)
      src[0, 0] = 1e-41 if src_type != "f16" else 3e-8
      src[0, 1] = 65519.996 if src_type == "f32" else 65280
      src = rounded(src_type, src)
      ids = [2, -5, 4, 0]
      after = dst.copy()
      after[2], after[0] = src[0], src[3]
      ids_type = "i64" if src_type == "f16" else "i32"
      c.add("set_rows", f"{dst_type}.{src_type}",
            [tensor(dst_type, dst), tensor(src_type, src), tensor(ids_type, ids)],
            tensor(dst_type, after))


def copy(c):
  code = {"f32": 0, "f16": 1, "i32": 26, "i64": 27, "bf16": 30}
  hard = [0, -0.0, 1, -1, 2049, 2051, -2049, 65504, 65519.996, 65520, 1e30, -1e30, np.inf, -np.inf,
          6.1035156e-05, 6.0975552e-05, 5.9604645e-08, 2.9802322e-08, 2.9802326e-08, 1e-40, -1e-45,
          3.3895314e38, 3.3961775e38, 1.00390625, 1.01171875, 0.5, 1.5, 2.5, -0.5, -3.5, 3e9, -3e9]
  for src_type in ("f32", "f16", "bf16"):
    values = rounded(src_type, hard)
    for dst_type in ("f32", "f16", "bf16", "i32", "i64"):
      out = values
      if dst_type[0] == "i":
        low, high = (-2**31, 2**31 - 1) if dst_type == "i32" else (-2**63, 2**63 - 1)
        out = np.array([high if v >= high else low if v <= low else round(v) for v in values],
                       np.int64)
      c.add("copy", f"{src_type}.{dst_type}", [tensor(src_type, values)], tensor(dst_type, out),
            [code[dst_type]])
  whole = np.array([0, 1, -1, 2**24 + 1, 2**24 + 3, -2**31, 2**31 - 1, 2049, 257, 65520, -65519])
  for dst_type in ("f32", "f16", "bf16", "i64"):
    c.add("copy", f"i32.{dst_type}", [tensor("i32", whole)], tensor(dst_type, whole),
          [code[dst_type]])
  # Beyond 2^53: one rounding, not two. 2^24 units of 2^38, plus a half, plus one in the last place.
  tie = (2**24 << 38) + (1 << 37)
  big = np.array([0, 2**63 - 1, -2**63, tie + 1, -tie - 1, tie, 2**53 + 1, 300])
  c.add("copy", "i64.f32", [tensor("i64", big)], tensor("f32", big.astype(np.float32)),
        [code["f32"]])
  small = np.clip(big, -2**31, 2**31 - 1)
  c.add("copy", "i64.i32", [tensor("i64", big)], tensor("i32", small), [code["i32"]])
  for axes in ([2, 0, 3, 1], [3, 2, 1, 0], [1, 0, 2, 3]):
    x_t, x = strided("f32", random("f32", [4, 2, 2, 3]), axes, [(1, 2), (0, 2), (1, 1), (0, 3)])
    name = "".join(map(str, axes))
    c.add("copy", "strided." + name, [x_t], tensor("f16", x), [code["f16"]])
  raw, values = q8_0_rows(64, 2)
  x_t = raw_tensor("q8_0", [64, 2], raw)
  c.add("copy", "q8_0.f32", [x_t], tensor("f32", values), [code["f32"]])
  c.add("copy", "q8_0.q8_0", [x_t], dict(x_t), [8])


def concat(c):
  for dtype in ("f16", "i64"):
    for along in range(4 if dtype == "f16" else 2):
      a_dim, b_dim = [2, 3, 2, 2], [2, 3, 2, 2]
      b_dim[along] = 1
      a = RNG.integers(-9, 10, a_dim[::-1]).astype(np.float64)
      b = RNG.integers(-9, 10, b_dim[::-1]).astype(np.float64)
      c.add("concat", f"{dtype}.{along}", [tensor(dtype, a), tensor(dtype, b)],
            tensor(dtype, np.concatenate([a, b], axis=3 - along)), [along])
  a_t, a = strided("f32", random("f32", [3, 4]), [1, 0])
  b_t, b = strided("f32", random("f32", [6, 5]), [0, 1], [(2, 4), (1, 2)])
  c.add("concat", "strided", [a_t, b_t], tensor("f32", np.concatenate([a, b], axis=0)), [1])
  raw_a, _ = q4_0_rows(32, 2)
  raw_b, _ = q4_0_rows(64, 2)
  joined = raw_a[:18] + raw_b[:36] + raw_a[18:] + raw_b[36:]
  c.add("concat", "q4_0", [raw_tensor("q4_0", [32, 2], raw_a), raw_tensor("q4_0", [64, 2], raw_b)],
        raw_tensor("q4_0", [96, 2], joined), [0])


def binary(c):
  functions = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
  hard = rounded("f32", [1, 0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -3e38])
  for op, f in functions.items():
    for a_type, b_type, b_dim in (("f32", "f32", [5, 3, 2]), ("f32", "f16", [5]),
                                  ("f16", "bf16", [1, 3]), ("bf16", "f32", [1, 1, 2]),
                                  ("f32", "f32", [1])):
      a, b = random(a_type, [5, 3, 2]), random(b_type, b_dim)
      c.add(op, f"{a_type}.{b_type}.{len(b_dim)}{b_dim[0]}", [tensor(a_type, a), tensor(b_type, b)],
            tensor(a_type, f(a, b.reshape((1,) * (3 - b.ndim) + b.shape))))
    a_t, a = strided("f32", random("f32", [4, 5]), [1, 0])
    b_t, b = strided("f32", random("f32", [9, 6]), [0, 1], [(3, 5), (2, 4)])
    c.add(op, "strided", [a_t, b_t], tensor("f32", f(a, b)))
    with np.errstate(all="ignore"):
      out = f(hard[None, :], hard[:, None])
    a = np.broadcast_to(hard, (8, 8))
    c.add(op, "special", [tensor("f32", a), tensor("f32", hard[:, None])], tensor("f32", out))


def sigmoid(x):
  return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def unary(c):
  def relu(x):
    return x if x > 0 or math.isnan(x) else 0.0

  # tanh(u) = 1 - 2 / (exp(2u) + 1): 0.5 x (1 + tanh u) = x sigmoid(2u)
  functions = {
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "gelu_erf": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
    "tanh": math.tanh, "relu": relu, "sigmoid": sigmoid}
  for op, f in functions.items():
    for dtype in ("f32", "f16", "bf16"):
      x = rounded(dtype, np.concatenate([np.linspace(-12, 12, 25), [0, -0.0, 1e-40, -1e-40, 1e-5,
                                                                   30, -30, 300, -300, math.nan]]))
      c.add(op, dtype, [tensor(dtype, x)], tensor(dtype, [f(v) for v in x]), ulps=1)
    x_t, x = strided("f32", random("f32", [4, 3, 2]), [2, 0, 1])
    c.add(op, "strided", [x_t], tensor("f32", np.vectorize(f)(x)), ulps=1)
  for dtype in ("f32", "f16", "bf16"):
    x = random(dtype, [5, 2])
    for scale, bias in ((-1.5, 0.0), (0.1, 3.25)):
      out = x * np.float64(np.float32(scale)) + np.float64(np.float32(bias))
      name = f"{dtype}.{scale}"
      c.add("scale", name, [tensor(dtype, x)], tensor(dtype, out), [scale, bias], ulps=1)


def norms(c):
  for dtype in ("f32", "f16", "bf16"):
    for n, sigma, mean, eps in ((1, 1, 0, 1e-5), (7, 1, 0, 1e-5), (11, 1000, 0, 1e-6),
                                (10, 1, 50, 0.5)):
      if n == 10 and dtype != "f32":
        continue
      x = random(dtype, [n, 2], sigma, mean)
      w, b = random("f32", [n]), random("f16", [n])
      e = float(np.float32(eps))
      rms = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + e)
      centred = x - np.mean(x, axis=-1, keepdims=True)
      layer = centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + e)
      name = f"{dtype}.n{n}"
      x_t, w_t, b_t = tensor(dtype, x), tensor("f32", w), tensor("f16", b)
      c.add("rms_norm", name, [x_t, w_t], tensor(dtype, rms * w), [eps], ulps=1)
      c.add("layer_norm", name, [x_t, w_t, b_t], tensor(dtype, layer * w + b), [eps], ulps=1)
      if n == 7:
        plain, biased = tensor(dtype, layer), tensor(dtype, layer + b)
        c.add("rms_norm", name + ".plain", [x_t, None], tensor(dtype, rms), [eps], ulps=1)
        c.add("layer_norm", name + ".plain", [x_t, None, None], plain, [eps], ulps=1)
        c.add("layer_norm", name + ".bias", [x_t, None, b_t], biased, [eps], ulps=1)
  x_t, x = strided("f32", random("f32", [9, 3, 4]), [0, 2, 1], [(1, 6), (0, 3), (1, 2)])
  rms = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True))
  c.add("rms_norm", "strided", [x_t, None], tensor("f32", rms), [0.0], ulps=1)


def softmax(c):
  def exact(s):
    out = np.zeros(s.shape)
    for i in np.ndindex(s.shape[:-1]):
      row = s[i]
      if np.isnan(row).any() or (row == np.inf).any():
        out[i] = np.nan
      elif (row > -np.inf).any():
        e = [math.exp(v - max(row)) for v in row]
        out[i] = np.array(e) / math.fsum(e)
    return out

  for dtype in ("f32", "f16", "bf16"):
    for n, sigma in ((1, 1), (6, 3), (25, 20)):
      x = random(dtype, [n, 3], sigma)
      c.add("softmax", f"{dtype}.n{n}", [tensor(dtype, x), None], tensor(dtype, exact(x * 0.25)),
            [0.25], ulps=1)
    x, mask = random("f32", [5, 2, 3, 2], 2), random(dtype, [5, 1, 3])
    mask[RNG.random(mask.shape) < 0.3] = -np.inf
    s = x * -0.5 + mask[None]
    c.add("softmax", "mask." + dtype, [tensor("f32", x), tensor(dtype, mask)],
          tensor("f32", exact(s)), [-0.5], ulps=1)
  inf = math.inf
  x = rounded("f32", [[1, -inf, 2], [-inf, -inf, -inf], [1, math.nan, 2], [1, inf, 2],
                      [1e30, -1e30, 1e30]])
  c.add("softmax", "special", [tensor("f32", x), None], tensor("f32", exact(x)), [1.0], ulps=1)


def main():
  out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "ops")
  out.mkdir(parents=True, exist_ok=True)
  c = Cases()
  for make in (matmul, rows, copy, concat, binary, unary, norms, softmax):
    make(c)
  for op, cases in c.ops.items():
    text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (out / f"{op}.json").write_text(f"[\n{text}\n]\n")


main()
