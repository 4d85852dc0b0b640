#!/usr/bin/env bash
# lint.sh SOURCE BUILD [FILE...]: the checks of .clang-tidy for C++, the length of functions for all.
# The static analyser, ten times as slow, is left to `clang-tidy -p BUILD FILE` by hand.
# Exit code 77 (not run) without clang-tidy 14.
set -euo pipefail
cd "$1"
build=$2
shift 2
python3 tests/structure/functions.py 100 $(find core ops backends examples tests -type f \
  \( -name '*.cu' -o -name '*.cuh' -o -name '*.comp' -o -name '*.glsl' -o -name '*.c' -o -name '*.h' -o -name '*.cpp' \))
tool=$(command -v clang-tidy-14 || command -v clang-tidy || true)
if [ -z "$tool" ] || ! "$tool" --version | grep -q 'version 14\.'; then
  echo "not run: clang-tidy 14 is not here"
  exit 77
fi
# What the build compiles, each file once; kernels for one instruction set stand for the others'.
files=("$@")
[ $# -gt 0 ] || mapfile -t files < <(python3 - "$build/compile_commands.json" "$PWD" <<'EOF'
import json, os, sys
root = sys.argv[2]
seen = {os.path.relpath(os.path.join(c["directory"], c["file"]), root)
        for c in json.load(open(sys.argv[1]))}
print("\n".join(sorted(f for f in seen if f.split("/")[0] in
      ("core", "ops", "backends", "examples", "tests") and f.endswith((".cpp", ".c")))))
EOF
)
printf '%s\0' "${files[@]}" |
  xargs -0 -P 2 -n 8 "$tool" -p "$build" --quiet --checks='-clang-analyzer-*' \
    --extra-arg=-Wno-error 2>/dev/null # warnings are the compiler's to judge, as errors or not
echo "${#files[@]} files linted"
