#!/usr/bin/env python3
"""rewrite.py FROM TO: copies the CUDA backend's device code as C++ that device.h can stand under.

Only what no macro can do is changed: PTX (asm becomes a call of emu::ptx), shared memory, and
kernels' addresses, whose types the emulated launch needs. Files that did not change stay as old as
they are.
"""
import pathlib
import re
import sys


def split(text, separator):
    """Parts of text between separators outside of strings and brackets."""
    parts, depth, quoted, start, i = [], 0, False, 0, 0
    while i < len(text):
        c = text[i]
        if quoted:
            i += c == "\\"
            quoted = c != '"'
        elif c == '"':
            quoted = True
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == separator and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
        i += 1
    return parts + [text[start:].strip()]


def end_of(text, start):
    """Behind the bracket that closes the one at start."""
    depth, quoted, i = 0, False, start
    while True:
        c = text[i]
        if quoted:
            i += c == "\\"
            quoted = c != '"'
        elif c == '"':
            quoted = True
        else:
            depth += (c == "(") - (c == ")")
        i += 1
        if depth == 0:
            return i


def replace_asm(text):
    out, at = [], 0
    for m in re.finditer(r"\basm(?:\s+volatile)?\s*\(", text):
        if m.start() < at:
            continue
        end = end_of(text, m.end() - 1)
        parts = split(text[m.end():end - 1].replace("::", ": :"), ":")
        strings = re.sub(r"//[^\n]*", "", parts[0])
        operands = []
        for part in parts[1:3]:
            for operand in split(part, ",") if part else []:
                operands.append(operand[operand.index("("):])
        out += [text[at:m.start()], "::emu::ptx<", strings, ">(", ", ".join(operands), ")"]
        at = end
    return "".join(out) + text[at:]


def shared_variable(m):
    names = [re.match(r"\w+", n.split()[-1] if i == 0 else n).group(0)
             for i, n in enumerate(split(re.sub(r"\[[^\]]*\]", "", m.group(1)), ","))]
    return f"static {m.group(1)};" + "".join(f" EMU_FRESH({n});" for n in names)


def rewrite(text):
    # PTX templates hold ::, which is no separator of operands.
    text = re.sub(r'"[^"\n]*"', lambda m: m.group(0).replace("::", "\0"), text)
    text = replace_asm(text).replace("\0", "::")
    text = re.sub(r"extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];",
                  r"\1* const \2 = static_cast<\1*>(::emu::dynamic_shared());", text)
    text = re.sub(r"(?<!extern )__shared__ ([^;=]+);", shared_variable, text)
    text = text.replace("reinterpret_cast<const void*>(kernel)", "::emu::known(kernel)")
    # Code for all architectures is there: the device decides which kernels run.
    text = re.sub(r"#if __CUDA_ARCH__ >= 900\b", "#if 1", text)
    return text


def main():
    source, target = map(pathlib.Path, sys.argv[1:3])
    for path in sorted(source.rglob("*")):
        if path.suffix not in (".cu", ".cuh", ".h"):
            continue
        to = target / path.relative_to(source)
        if path.suffix == ".cu":
            to = to.with_name(to.name + ".cpp")
        to.parent.mkdir(parents=True, exist_ok=True)
        text = f'#line 1 "{path}"\n' + rewrite(path.read_text())
        if not to.exists() or to.read_text() != text:
            to.write_text(text)


main()
