#!/usr/bin/env python3
"""Golden vectors of attention, rope, argmax, top_k and sample, made with NumPy alone.

Written from the doc comments in ops/*.h, not from the references they check. Usage:
    python3 make_ops2.py        (needs numpy; writes ops2/*.json beside itself)
"""
import json
import math
import pathlib

import numpy as np

OUT = pathlib.Path(__file__).parent / "ops2"
F16, BF16, F32, I32 = "f16", "bf16", "f32", "i32"


def to_bf16(a):
    bits = np.asarray(a, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32)


def represent(a, dtype):
    if dtype == F16:
        return np.asarray(a, np.float16).astype(np.float64)
    if dtype == BF16:
        return to_bf16(a).astype(np.float64)
    return np.asarray(a, np.float32).astype(np.float64)


def number(x):
    x = float(x)
    if math.isnan(x) or math.isinf(x):
        return str(x)
    if x == int(x):
        return int(x)
    single = np.float32(x)
    return float(str(single)) if float(single) == x else float(f"{x:.9g}")


def tensor(a, dtype):
    """NumPy's last axis is dim[0]."""
    return {"dtype": dtype, "dim": list(reversed(a.shape)), "data": [number(x) for x in a.ravel()]}


def state(a, dtype, cells):
    """Only the named cells are written out; the others are not-a-number."""
    t = tensor(a[cells], dtype)
    t["dim"][2] = a.shape[0]
    return {**t, "cells": cells}


def normal(rng, shape, dtype=F32, sigma=1.0):
    return represent(np.round(rng.normal(0, sigma, shape), 3), dtype)


# --- rope -----------------------------------------------------------------------------------------


def yarn_ramp(n_rot, base, n_ctx, fast, slow):
    def dim_of(rotations):
        return n_rot * math.log(n_ctx / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(dim_of(fast)), 0), min(math.ceil(dim_of(slow)), n_rot - 1)
    ramp = (np.arange(n_rot // 2) - low) / max(high - low, 0.001)
    return 1 - np.clip(ramp, 0, 1)


def rope(x, positions, p):
    """Each pair as one complex number, turned by exp(i angle). x: [tokens, heads, head_dim]."""
    n, offset = p["n_rot"], p["offset"]
    pairs = np.arange(n // 2)
    inverse = np.float64(np.float32(p["base"])) ** (-2.0 * pairs / n)
    if "factors" in p:
        inverse = inverse / np.asarray(p["factors"], np.float32).astype(np.float64)
    scale = float(np.float32(p["linear_scale"]))
    magnitude = float(np.float32(p["attn_factor"]))
    turn = inverse * scale
    if p["ext_factor"] != 0:
        mix = yarn_ramp(n, p["base"], p["n_ctx_orig"], p["beta_fast"], p["beta_slow"])
        mix = mix * float(np.float32(p["ext_factor"]))
        turn = turn * (1 - mix) + inverse * mix
        magnitude *= 1 + 0.1 * math.log(1 / scale)
    first = offset + (2 * pairs if p["pairing"] == 0 else pairs)
    second = first + 1 if p["pairing"] == 0 else first + n // 2
    y = np.array(x)
    # The op's operands: cosines, sines and the magnitude are F32.
    circle = np.exp(1j * (positions[:, None, None] * turn)).astype(np.complex64)
    z = (x[..., first] + 1j * x[..., second]) * float(np.float32(magnitude))
    z = z * circle.astype(np.complex128)
    y[..., first], y[..., second] = z.real, z.imag
    return y


def rope_cases(rng):
    base = dict(n_rot=16, offset=0, pairing=0, base=10000.0, linear_scale=1.0, ext_factor=0.0,
                attn_factor=1.0, beta_fast=32.0, beta_slow=1.0, n_ctx_orig=0)
    far = [-(2**20), -12345, -1, 0, 1, 65537, 2**20 - 1, 2**20]
    yarn = dict(ext_factor=1.0, linear_scale=0.25, n_ctx_orig=4096, base=500000.0, n_rot=32)
    variants = [
        ("adjacent", {}, 16, [0, 1, 7, 4095], F32),
        ("half_split", dict(pairing=1), 16, [3, 2, 1, 0], F32),
        ("far.adjacent", {}, 16, far, F32),
        ("far.half_split", dict(pairing=1, base=1e6), 16, far, F32),
        ("partial", dict(n_rot=10, pairing=1), 24, [5, 1000], F32),
        ("offset", dict(n_rot=10, offset=13), 24, [5, 1000], F32),
        ("linear", dict(linear_scale=0.125), 16, [800, 9], F32),
        ("attn_factor", dict(attn_factor=1.25), 16, [800, 9], F32),
        ("factors", dict(factors=[1, 1, 1.5, 2, 4, 8, 8, 8], pairing=1), 16, [100000, 9], F32),
        ("yarn", dict(yarn), 32, [0, 1, 5000, 16000, -7], F32),
        ("yarn.mix", dict(yarn, ext_factor=0.5, attn_factor=0.9, pairing=1), 32, [70000, 3], F32),
        ("yarn.narrow", dict(yarn, beta_fast=2.0, beta_slow=2.0), 32, [70000, 3], F32),
        ("yarn.step", dict(yarn, beta_fast=1.0, beta_slow=32.0), 32, [70000, 3], F32),
        ("yarn.factors.offset", dict(yarn, offset=8, factors=[1 + i / 4 for i in range(16)]), 48,
         [4000, 3], F32),
        ("f16", {}, 16, [0, 3], F16),
    ]
    cases = []
    for name, change, head_dim, positions, dtype in variants:
        p = {**base, **change}
        x = normal(rng, (len(positions), 2, head_dim), dtype)
        y = rope(x, np.array(positions, np.float64), p)
        inputs = [tensor(x, dtype), tensor(np.array(positions), I32)]
        factors = p.pop("factors", None)
        if factors is not None:
            inputs.append(tensor(np.array(factors), F32))
        cases.append(dict(name=name, args=p, inputs=inputs, out=tensor(y, dtype)))
    return cases


# --- attention ------------------------------------------------------------------------------------


def attention_case(rng, name, *, heads=4, kv_heads=2, dk=4, dv=4, types=(F32, F32, F32), spans=(3,),
                   lengths=(5,), window=0, n_first=0, causal=True, softcap=0.0, scale=0.0,
                   mask=None, sinks=False, max_seqs=3, holes=False, div=1):
    """Sequence s holds lengths[s] cells, its last spans[s] ones are the step's."""
    n_tokens = sum(spans)
    n_pages = 2 + sum(-(-n // 40) for n in lengths) + len(lengths)
    cells = n_pages * 64
    # What no entry names is poison.
    k_all = np.full((cells, kv_heads, dk), np.nan)
    v_all = np.full((cells, kv_heads, dv), np.nan)
    pages = list(rng.permutation(n_pages))
    entries, starts, positions, held = [], [0], [], []
    for s, (n, span) in enumerate(zip(lengths, spans)):
        mine, position = [], int(rng.integers(0, 4)) * div
        while len(mine) < n:
            page, first = int(pages.pop()), int(rng.integers(0, 20))
            m = min(n - len(mine), int(rng.integers(20, 41)))
            entries.append([page, first, m, position, div, 0])
            for i in range(m):
                mine.append((page * 64 + first + i, (position + i) // div))
            position += m + (int(rng.integers(0, 9)) * div if holes else 0)
        starts.append(len(entries))
        held.append(mine)
        positions += [p for _, p in mine[n - span:]]
        for cell, _ in mine:
            k_all[cell] = normal(rng, (kv_heads, dk), types[1])
            v_all[cell] = normal(rng, (kv_heads, dv), types[2])
    q = normal(rng, (n_tokens, heads, dk), types[0])
    args = dict(scale=scale or float(np.float32(1 / math.sqrt(dk))), softcap=softcap,
                causal=int(causal), window=window, n_first=n_first, max_seqs=max_seqs)
    mask_array = None
    if mask is not None:
        mask_array = normal(rng, (heads if mask == "heads" else 1, n_tokens, mask_cells(lengths)),
                            F32, 2)
        mask_array[rng.random(mask_array.shape) < 0.1] = -np.inf
    sink_array = normal(rng, (heads,), F32, 2) if sinks else None
    out = np.zeros((n_tokens, heads, dv))
    t = 0
    for mine, span in zip(held, spans):
        index = np.array([c for c, _ in mine])
        where = np.array([p for _, p in mine])
        for _ in range(span):
            see = np.ones(len(mine), bool)
            if causal:
                see &= where <= positions[t]
            if window:
                see &= (where > positions[t] - window) | (where < n_first)
            for h in range(heads):
                g = h // (heads // kv_heads)
                s = np.float64(np.float32(args["scale"])) * (k_all[index, g] @ q[t, h])
                if softcap:
                    s = softcap * np.tanh(s / softcap)
                if mask_array is not None:
                    row = np.full(len(mine), -np.inf)
                    m = mask_array[min(h, len(mask_array) - 1), t]
                    row[:min(len(m), len(row))] = m[:len(row)]
                    s = s + row
                w = np.where(see & (s > -np.inf), np.exp(np.where(see, s, -np.inf)), 0)
                total = w.sum() + (math.exp(sink_array[h]) if sinks else 0)
                if total > 0:
                    out[t, h] = (w[:, None] * np.where(w[:, None] > 0, v_all[index, g], 0)).sum(0)
                    out[t, h] /= total
            t += 1
    firsts = np.concatenate([[0], np.cumsum(spans)]).tolist()
    pad = max_seqs - len(spans)
    table = [len(spans)] + firsts + [firsts[-1]] * pad + starts + [starts[-1]] * pad
    table += [w for e in entries for w in e] + [-7] * 10
    named = sorted(c for mine in held for c, _ in mine)
    inputs = [tensor(q, types[0]), state(k_all, types[1], named), state(v_all, types[2], named),
              tensor(np.array(positions), I32), tensor(np.array(table), I32),
              tensor(mask_array, F32) if mask_array is not None else None,
              tensor(sink_array, F32) if sinks else None]
    return dict(name=name, args=args, inputs=inputs, out=tensor(out, F32))


def mask_cells(lengths):
    return max(lengths) - 2


def attention_cases(rng):
    def c(name, **options):
        return attention_case(rng, name, **options)

    many = dict(spans=(2, 1, 3), lengths=(50, 1, 12))
    return [
        c("mha", heads=2, kv_heads=2),
        c("gqa", heads=6, kv_heads=2, dk=6, dv=3, **many),
        c("mqa", heads=3, kv_heads=1, **many),
        c("types", types=(F16, BF16, F16), **many),
        c("window", window=4, **many),
        c("window.first", window=4, n_first=6, holes=True, **many),
        c("window1", window=1, **many),
        c("non_causal", causal=False, **many),
        c("softcap.scale", softcap=1.5, scale=0.75, **many),
        c("mask", mask="one", **many),
        c("mask.heads", mask="heads", causal=False, **many),
        c("sinks", sinks=True, **many),
        c("sinks.window.holes", sinks=True, window=5, holes=True, **many),
        c("self_extend", div=4, window=7, spans=(4,), lengths=(70,)),
        c("everything", types=(F32, F16, BF16), softcap=3.0, window=9, n_first=3, sinks=True,
          mask="heads", holes=True, scale=-0.4, **many),
    ]


# --- argmax, top_k, sample ------------------------------------------------------------------------


def rows_of_trouble(rng):
    x = np.round(rng.normal(0, 1, (9, 13)), 1)
    x[1] = 2
    x[2, ::2] = np.nan
    x[3] = np.nan
    x[4, 3:5] = np.inf
    x[5] = -np.inf
    x[6, 0], x[6, 1:] = np.nan, -np.inf
    x[7] = np.where(rng.random(13) < 0.5, 0.0, -0.0)
    return x


def order_of(row):
    """Falling, equal ones by index, not-a-number last."""
    return sorted(range(len(row)), key=lambda i: (math.isnan(row[i]), 0 if math.isnan(row[i]) else -row[i], i))


def choice_cases(rng):
    x = rows_of_trouble(rng)
    cases = {"argmax": [], "top_k": []}
    cases["argmax"].append(dict(name="rows", args={}, inputs=[tensor(x, F32)],
                                out=tensor(np.array([order_of(r)[0] for r in x]), I32)))
    for k in (1, 4, 13):
        y = np.array([order_of(r)[:k] for r in x])
        cases["top_k"].append(dict(name=f"k{k}", args=dict(k=k), inputs=[tensor(x, F32)],
                                   out=tensor(y, I32)))
    return cases


def philox4x32_10(counter, key):
    mask = 0xFFFFFFFF
    for r in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        k0, k1 = (key[0] + r * 0x9E3779B9) & mask, (key[1] + r * 0xBB67AE85) & mask
        counter = [(b >> 32) ^ counter[1] ^ k0, b & mask, (a >> 32) ^ counter[3] ^ k1, a & mask]
    return counter


def sample_one(row, params, key):
    temperature, top_k, top_p, min_p = params
    ids = [i for i in order_of(row) if not math.isnan(row[i]) and row[i] != -math.inf]
    if not ids:
        return 0
    if not temperature > 0 or math.isinf(row[ids[0]]):
        return ids[0]
    if top_k >= 1:
        ids = ids[:int(top_k)]
    e = np.exp(np.array([row[i] - row[ids[0]] for i in ids]))
    if top_p < 1:
        enough = np.cumsum(e) >= top_p * e.sum()
        ids = ids[:int(np.argmax(enough)) + 1]
    if min_p > 0:
        ids = [i for i in ids if i == ids[0] or math.exp(row[i] - row[ids[0]]) >= min_p]
    w = np.exp(np.array([(row[i] - row[ids[0]]) / temperature for i in ids]))
    seed_lo, seed_hi, sequence, position = (int(v) & 0xFFFFFFFF for v in key)
    u = (philox4x32_10([position, sequence, 0, 0], [seed_lo, seed_hi])[0] + 0.5) / 2**32
    return ids[int(np.argmax(np.cumsum(w) > u * w.sum()))]


def sample_cases(rng):
    assert philox4x32_10([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    params = [[0, 0, 1, 0], [1, 0, 1, 0], [0.7, 5, 1, 0], [1.3, 0, 0.8, 0], [1, 0, 1, 0.25],
              [0.9, 12, 0.6, 0.125], [2, 3, 0.9, 0], [1, 1, 1, 0]] * 6
    keys = rng.integers(-2**31, 2**31, (len(params), 4))
    keys[:8, 0:2] = [1234, 0]  # one seed, rising positions
    keys[:8, 2] = 3
    keys[:8, 3] = np.arange(8)
    x = represent(np.round(rng.normal(0, 2, (len(params), 40)), 1), F32)
    x[24:33] = np.pad(represent(rows_of_trouble(rng), F32), ((0, 0), (0, 27)), constant_values=-np.inf)
    p = represent(np.array(params), F32)
    y = np.array([sample_one(list(r), list(q), k) for r, q, k in zip(x, p, keys)])
    return [dict(name="rows", args={}, inputs=[tensor(x, F32), tensor(p, F32), tensor(keys, I32)],
                 out=tensor(y, I32))]


def main():
    rng = np.random.default_rng(20240607)
    files = {"rope": rope_cases(rng), "attention": attention_cases(rng), **choice_cases(rng),
             "sample": sample_cases(rng)}
    OUT.mkdir(exist_ok=True)
    for op, cases in files.items():
        with open(OUT / f"{op}.json", "w") as f:
            f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
