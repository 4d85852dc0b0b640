"""Makes the seed corpus of the GGUF fuzz target: small sound files, and one spoilt file for each kind
of damage that past loaders fell for. Writes corpus/gguf/<name>.gguf beside this file.

    python3 make_corpus.py
"""

import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent / "corpus" / "gguf"
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q",
           I64: "q", F64: "d"}


def u32(v):
    return struct.pack("<I", v)


def u64(v):
    return struct.pack("<Q", v)


def text(s):
    return u64(len(s)) + s


def key(name, kind, value):
    if kind == STRING:
        return text(name) + u32(kind) + text(value)
    return text(name) + u32(kind) + struct.pack("<" + FORMATS[kind], value)


def array(name, kind, n, elements):
    return text(name) + u32(ARRAY) + u32(kind) + u64(n) + elements


def tensor(name, dims, kind, offset):
    return text(name) + u32(len(dims)) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def file(keys=(), tensors=(), data=b"", version=3, align=32, n_keys=None, n_tensors=None):
    out = b"GGUF" + u32(version)
    out += u64(len(tensors) if n_tensors is None else n_tensors)
    out += u64(len(keys) if n_keys is None else n_keys)
    out += b"".join(keys) + b"".join(tensors)
    return out + bytes(-len(out) % align) + data if data else out


ALL = [key(b"k%d" % kind, kind, b"text" if kind == STRING else 1) for kind in range(13)
       if kind != ARRAY]
ARRAYS = [array(b"a%d" % kind, kind, 3, struct.pack("<3" + FORMATS[kind], 1, 0, 1))
          for kind in FORMATS]
WORDS = array(b"words", STRING, 3, text(b"one") + text(b"") + text(b"three"))
NESTED = array(b"nested", ARRAY, 2, u32(U8) + u64(2) + b"ab" + u32(STRING) + u64(1) + text(b"x"))
TENSORS = [tensor(b"b.weight", [32, 2], 2, 64), tensor(b"a.weight", [4, 1, 2], 0, 0),
           tensor(b"c", [1], 1, 128)]
DATA = bytes(range(130))
BIG = 2**64 - 1

SEEDS = {
    "empty": file(),
    "keys": file(ALL),
    "arrays": file(ARRAYS + [WORDS, NESTED]),
    "tensors": file([], TENSORS, DATA),
    "whole": file(ALL + ARRAYS + [WORDS, NESTED], TENSORS, DATA),
    "version2": file(ALL, TENSORS, DATA, version=2),
    "align64": file([key(b"general.alignment", U32, 64)], [tensor(b"t", [8], 0, 64)], bytes(96),
                    align=64),
    "all_types": file([], [tensor(b"t%d" % t, [256], t, 1024 * i)
                           for i, t in enumerate([0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 26, 30])],
                      bytes(1024 * 11 + 512)),
    "bad_version": file(version=0x03000000),
    "bad_n_keys": file(ALL, n_keys=BIG),
    "bad_n_tensors": file([], TENSORS, DATA, n_tensors=2**61),
    "bad_string": file([text(b"s") + u32(STRING) + u64(BIG) + b"abc"]),
    "bad_array_n": file([array(b"a", F64, 2**61 + 1, bytes(16))]),
    "bad_words_n": file([array(b"a", STRING, 2**60, text(b"x"))]),
    "bad_depth": file([text(b"a") + (u32(ARRAY) + u64(1)) * 9]),
    "bad_bool": file([key(b"b", BOOL, 2)]),
    "bad_kind": file([text(b"k") + u32(13) + bytes(8)]),
    "bad_name_nul": file([key(b"h\0i", U8, 1)]),
    "bad_twice": file([key(b"k", U8, 1)] * 2),
    "bad_alignment": file([key(b"general.alignment", U32, 24)], TENSORS, DATA),
    "bad_alignment_kind": file([key(b"general.alignment", U64, 32)], TENSORS, DATA),
    "bad_dim": file([], [tensor(b"t", [0], 0, 0)], DATA),
    "bad_dims": file([], [tensor(b"t", [2**62, 2, 2, 2], 1, 0)], DATA),
    "bad_rank": file([], [tensor(b"t", [1] * 5, 0, 0)], DATA),
    "bad_type": file([], [tensor(b"t", [256], 4, 0)], DATA),
    "bad_row": file([], [tensor(b"t", [31], 2, 0)], DATA),
    "bad_offset": file([], [tensor(b"t", [8], 0, BIG - 31)], DATA),
    "bad_overlap": file([], [tensor(b"t", [16], 0, 0), tensor(b"u", [8], 0, 32)], DATA),
}


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    for name, data in SEEDS.items():
        (HERE / f"{name}.gguf").write_bytes(data)


main()
