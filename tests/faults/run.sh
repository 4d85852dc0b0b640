#!/usr/bin/env bash
# Proves that the conformance suite can fail: each mistake of mistakes.def turns its op red, and
# without a mistake the same cases are green.
#   tests/faults/run.sh CONFORMANCE FAULTY_PLUGIN
set -uo pipefail
conformance=$1
plugin=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() {  # op, mistake or "none"
  local out="$work/$1.$2" code=0
  MICA_FAULT=$2 "$conformance" --plugin "$plugin" --backend ref --op "$1" --reduced --expect /dev/null \
    >"$out" 2>&1 || code=$?
  local red
  red=$(grep -c '^FAIL ' "$out")
  if [ "$2" = none ] && [ $code -eq 0 ] && [ "$red" -eq 0 ]; then
    echo "green $1"
  elif [ "$2" != none ] && [ $code -eq 1 ] && [ "$red" -gt 0 ]; then
    echo "red   $2 ($red cases of $1)"
  else
    echo "WRONG $2: --op $1 left with $code, $red cases failed"
    tail -n 5 "$out"
  fi
}
export -f check
export conformance plugin work

rows=$(sed -n 's/^MICA_MISTAKE(\(.*\), \(.*\))$/\1 \2/p' "$here/mistakes.def")
{
  echo "$rows" | cut -d' ' -f1 | sort -u | sed 's/$/ none/'
  echo "$rows"
} | xargs -P 2 -L 1 bash -c 'check "$0" "$1"' | tee "$work/report"
n=$(echo "$rows" | wc -l)
red=$(grep -c '^red ' "$work/report")
echo "$red of $n mistakes seen"
[ "$n" -ge 14 ] && [ "$red" -eq "$n" ] && ! grep -q '^WRONG' "$work/report"
