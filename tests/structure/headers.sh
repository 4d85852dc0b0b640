#!/usr/bin/env bash
# headers.sh SOURCE GENERATED: every public header compiles alone as C99 and as C++17.
set -euo pipefail
source=$1 generated=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
headers=$(cd "$source/core/include" && ls mica/*.h)
headers+=" mica/ops.h "
# The families' headers, as the umbrella lists them, and the scalars beside them.
headers+=$(sed -n 's/#include "\(.*\)"/\1/p' "$generated/mica/ops.h")
headers+=" $(cd "$source" && ls ops/*_args.h ops/*/*_args.h ops/dtypes/q*.h)"
for h in $headers; do
  # A header of macros alone would make a file without a declaration, which C forbids.
  printf '#include "%s"\nextern int declared;\n' "$h" | tee "$work/a.c" >"$work/a.cpp"
  include="-I$source -I$source/core/include -I$generated"
  cc -std=c99 -pedantic -Wall -Wextra -Werror -fsyntax-only $include "$work/a.c" || failed=1
  c++ -std=c++17 -pedantic -Wall -Wextra -Werror -fsyntax-only $include "$work/a.cpp" || failed=1
done
[ $failed -eq 0 ] && echo "all headers stand alone"
exit $failed
