#!/usr/bin/env bash
# sizes.sh SOURCE: no source file over 1000 lines, each folder of core within its share of 7000 lines;
# the public headers (a manual, mostly comments), fallback placement, saved state and every fusion's
# pattern within budgets of their own (docs/adr/0004, 0005, 0011). Prints lines used and free.
set -euo pipefail
cd "$1"
failed=0
complain() {
  echo "$*"
  failed=1
}

while read -r lines file; do
  [ "$lines" -le 1000 ] || complain "$file has $lines lines; the limit is 1000"
done < <(find core ops backends examples tests -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.c' \
  -o -name '*.cu' -o -name '*.cuh' -o -name '*.comp' -o -name '*.glsl' -o -name '*.inc' \
  -o -name '*.sh' -o -name '*.py' \) -exec wc -l {} + | grep -v ' total$')

lines_of() { find "$1" -type f \( -name '*.cpp' -o -name '*.h' \) -exec cat {} + | wc -l; }
show() { printf '%-14s %5d lines of %5d, %4d free\n' "$1" "$2" "$3" $(($3 - $2)); }

declare -A budget=([base]=1010 [graph]=1100 [plan]=1950 [kv]=2080 [gguf]=860)
used=0
total=0
for folder in base graph plan kv gguf; do
  lines=$(lines_of core/$folder)
  show core/$folder "$lines" "${budget[$folder]}"
  [ "$lines" -le "${budget[$folder]}" ] ||
    complain "core/$folder has $lines lines; its budget is ${budget[$folder]}"
  used=$((used + lines))
  total=$((total + budget[$folder]))
done
show core "$used" "$total"
[ "$total" -eq 7000 ] || complain "the folders' budgets add up to $total, not to 7000"

# What stands beside the plain path has budgets of its own.
declare -A beside=([include]=1350 [fallback]=730 [state]=880)
for folder in include fallback state; do
  lines=$(lines_of core/$folder)
  show core/$folder "$lines" "${beside[$folder]}"
  [ "$lines" -le "${beside[$folder]}" ] ||
    complain "core/$folder has $lines lines; its budget is ${beside[$folder]}"
done

while read -r lines file; do
  [ "$lines" -le 150 ] || complain "$file has $lines lines; a pattern has at most 150"
done < <(wc -l core/fusions/* | grep -v ' total$')

for folder in core/*/; do # a folder that nobody counts would be room without a limit
  name=$(basename "$folder")
  [[ " include base graph plan kv gguf fallback state fusions " == *" $name "* ]] ||
    complain "$folder has no budget"
done
loose=$(find core -maxdepth 1 \( -name '*.cpp' -o -name '*.h' \))
[ -z "$loose" ] || complain "in no folder of core: $loose"
exit $failed
