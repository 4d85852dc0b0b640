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

check() {  # op, mistake or "none", case or "all": a seventh of the op
  local out="$work/$1.$2.$3" code=0 cases=(--reduced)
  [ "$3" = all ] || cases=(--case "$1/$3")
  MICA_FAULT=$2 "$conformance" --plugin "$plugin" --backend ref --op "$1" "${cases[@]}" \
    --expect /dev/null >"$out" 2>&1 || code=$?
  local red passed
  red=$(grep -c '^FAIL ' "$out")
  passed=$(sed -n 's/^\([0-9]*\) passed, .*/\1/p' "$out")
  if [ "$2" = none ] && [ $code -eq 0 ] && [ "$red" -eq 0 ] && [ "${passed:-0}" -gt 0 ]; then
    echo "green $1 $3 ($passed cases)"
  elif [ "$2" != none ] && [ $code -eq 1 ] && [ "$red" -gt 0 ]; then
    echo "red   $2 ($red cases of $1)"
  else
    echo "WRONG $2: --op $1 (cases: $3) left with $code, $red cases failed"
    tail -n 5 "$out"
  fi
}
export -f check
export conformance plugin work

rows=$(sed -n 's/^MICA_MISTAKE(\(.*\), \(.*\), \(.*\))$/\1 \2 \3/p' "$here/mistakes.def" |
  sed 's/\*$/all/')
{
  echo "$rows" | sed 's/ [^ ]* / none /' | sort -u
  echo "$rows"
} | xargs -P 2 -L 1 bash -c 'check "$0" "$1" "$2"' | tee "$work/report"
n=$(echo "$rows" | wc -l)
red=$(grep -c '^red ' "$work/report")
echo "$red of $n mistakes seen"
[ "$n" -ge 14 ] && [ "$red" -eq "$n" ] && ! grep -q '^WRONG' "$work/report"
