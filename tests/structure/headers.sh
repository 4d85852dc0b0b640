#!/usr/bin/env bash
# headers.sh SOURCE GENERATED: every public header compiles alone as C99 and as C++17.
set -euo pipefail
source=$1 generated=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
headers=$(cd "$source/core/include" && ls mica/*.h)
headers+=" mica/ops.h "
headers+=$(cd "$source" && ls ops/*.h ops/*/*.h | grep -vE '^ops/dtypes/|^ops/(common)\.h')
for h in $headers; do
  # Headers that are C++ on purpose are internal: they say so by "#pragma once".
  [ -f "$source/$h" ] && grep -q '^#pragma once' "$source/$h" && continue
  echo "#include \"$h\"" | tee "$work/a.c" >"$work/a.cpp"
  include="-I$source -I$source/core/include -I$generated"
  cc -std=c99 -pedantic -Wall -Wextra -Werror -fsyntax-only $include "$work/a.c" || failed=1
  c++ -std=c++17 -pedantic -Wall -Wextra -Werror -fsyntax-only $include "$work/a.cpp" || failed=1
done
[ $failed -eq 0 ] && echo "all headers stand alone"
exit $failed
