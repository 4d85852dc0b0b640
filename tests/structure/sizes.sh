#!/usr/bin/env bash
# sizes.sh SOURCE: no source file over 1000 lines, core within its budget of 6000.
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
core=$(find core -type f \( -name '*.cpp' -o -name '*.h' \) -exec cat {} + | wc -l)
if [ "$core" -gt 6000 ]; then
  echo "core/ has $core lines; its budget is 6000"
  failed=1
fi
echo "core/ has $core lines"
exit $failed
