#!/usr/bin/env bash
# sizes.sh SOURCE: no source file over 1000 lines, core within its budget of 7000, and no fusion's
# pattern over 150 (docs/adr/0004).
set -euo pipefail
cd "$1"
failed=0
while read -r lines file; do
  if [ "$lines" -gt 1000 ]; then
    echo "$file has $lines lines; the limit is 1000"
    failed=1
  fi
done < <(find core ops backends examples tests -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.c' \
  -o -name '*.sh' -o -name '*.py' \) -exec wc -l {} + | grep -v ' total$')
core=$(find core -path core/fusions -prune -o -type f \( -name '*.cpp' -o -name '*.h' \) \
  -exec cat {} + | wc -l)
if [ "$core" -gt 7000 ]; then
  echo "core/ has $core lines; its budget is 7000"
  failed=1
fi
while read -r lines file; do
  if [ "$lines" -gt 150 ]; then
    echo "$file has $lines lines; a pattern has at most 150"
    failed=1
  fi
done < <(wc -l core/fusions/* | grep -v ' total$')
echo "core/ has $core lines"
exit $failed
