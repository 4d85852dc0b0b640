"""Makes the golden vectors of block decoding with PyPI's `gguf` (an independent decoder).

    python3 -m venv venv && venv/bin/pip install gguf==0.19.0 numpy && venv/bin/python make_dtypes.py

Writes <type>.bin beside this file: n blocks as in a GGUF file, then their n * block_elems values as
little-endian f32. Blocks are random bytes; their f16 scales are drawn from a list of odd ones.
"""

import pathlib

import gguf
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SEED = 20251122

# name: (blocks, byte offsets of the f16 numbers of a block)
TYPES = {
    "f16": (256, [0]),
    "bf16": (256, []),
    "q4_0": (20, [0]),
    "q4_1": (20, [0, 2]),
    "q5_0": (20, [0]),
    "q5_1": (20, [0, 2]),
    "q8_0": (20, [0]),
    "q4_k": (10, [0, 2]),
    "q5_k": (10, [0, 2]),
    "q6_k": (10, [208]),
}

# f16 bit patterns: zero, both signs, the least and the largest subnormal, the least normal, one and
# its neighbours, the largest finite number, and ordinary scales.
ODD = [0x0000, 0x8000, 0x0001, 0x8001, 0x0200, 0x03FF, 0x83FF, 0x0400, 0x8400, 0x3BFF, 0x3C00,
       0x3C01, 0xBC00, 0x7BFF, 0xFBFF, 0x1234, 0x9234, 0x2ABC, 0x0155, 0x8155]


def make(name, rng):
    n_blocks, f16_at = TYPES[name]
    qtype = gguf.GGMLQuantizationType[name.upper()]
    block_elems, block_bytes = gguf.GGML_QUANT_SIZES[qtype]
    raw = rng.integers(0, 256, (n_blocks, block_bytes), dtype=np.uint8)
    if name == "bf16":  # every exponent but that of infinity and NaN
        raw[:, 1] = (raw[:, 1] & 0x80) | rng.integers(0, 0x7F, n_blocks, dtype=np.uint8)
    for i in range(n_blocks):
        for k, at in enumerate(f16_at):
            bits = ODD[(i + 7 * k) % len(ODD)] if i < len(ODD) else int(rng.integers(0, 0x7C00))
            raw[i, at : at + 2] = np.frombuffer(np.uint16(bits).tobytes(), dtype=np.uint8)
    values = gguf.quants.dequantize(raw, qtype).astype("<f4").reshape(n_blocks * block_elems)
    assert np.isfinite(values).all()
    (HERE / f"{name}.bin").write_bytes(raw.tobytes() + values.tobytes())


def main():
    for i, name in enumerate(TYPES):
        make(name, np.random.default_rng([SEED, i]))


main()
