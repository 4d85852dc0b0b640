#!/usr/bin/env bash
# format.sh SOURCE: every source file is as clang-format 14 with the repository's .clang-format writes
# it, shaders too. Exit code 77 (not run) without that version: others format differently.
set -euo pipefail
cd "$1"
tool=$(command -v clang-format-14 || command -v clang-format || true)
if [ -z "$tool" ] || ! "$tool" --version | grep -q 'version 14\.'; then
  echo "not run: clang-format 14 is not here"
  exit 77
fi
files() { find core ops backends examples tests -type f \( "$@" \) -print0; }
report=$(mktemp)
trap 'rm -f "$report"' EXIT
files -name '*.cpp' -o -name '*.h' -o -name '*.c' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc' |
  xargs -0 -P 2 -n 40 "$tool" --dry-run 2>>"$report" || true
# GLSL is no language that clang-format knows: it is formatted as C++.
while IFS= read -r -d '' file; do
  "$tool" --assume-filename=backends/vulkan/kernels/shader.cpp <"$file" | cmp -s - "$file" ||
    echo "$file: not formatted" >>"$report"
done < <(files -name '*.comp' -o -name '*.glsl')
n=$(grep -cE 'warning:|not formatted' "$report" || true)
{ grep -E 'warning:|not formatted' "$report" || true; } | cut -d: -f1 | sort | uniq -c | head -40
echo "$n places differ from the format"
[ "$n" -eq 0 ]
