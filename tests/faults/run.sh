#!/usr/bin/env bash
# Proves that the conformance suite can fail: each mistake of mistakes.def turns its op red, and
# without a mistake, or with what is none, the same cases are green.
#   tests/faults/run.sh CONFORMANCE FAULTY_PLUGIN
set -uo pipefail
conformance=$1
plugin=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() {  # red or green, op, mistake or "none", device, the suite's op, case or "all": a seventh
  local colour=$1 && shift
  local out="$work/$2.${3/:/_}.$4.$5" code=0 cases=(--reduced)
  [ "$5" = all ] || cases=(--case "$4/$5")
  MICA_FAULT=$2 "$conformance" --plugin "$plugin" --backend "$3" --op "$4" "${cases[@]}" \
    --expect /dev/null >"$out" 2>&1 || code=$?
  local red passed
  red=$(grep -c '^FAIL ' "$out")
  passed=$(sed -n 's/^\([0-9]*\) passed, .*/\1/p' "$out")
  if [ $colour = green ] && [ $code -eq 0 ] && [ "$red" -eq 0 ] && [ "${passed:-0}" -gt 0 ]; then
    echo "green $4 $5 on $3 ($passed cases), mistake: $2"
  elif [ $colour = red ] && [ $code -eq 1 ] && [ "$red" -gt 0 ]; then
    echo "red   $2 ($red cases of $4)"
  else
    echo "WRONG $2 of $1 on $3: --op $4 (cases: $5) left with $code, $red cases failed"
    tail -n 5 "$out"
  fi
}
export -f check
export conformance plugin work

listed() {  # macro
  sed -n "s/^$1(\(.*\), \(.*\), \(.*\), \(.*\), \(.*\))\$/\1 \2 \3 \4 \5/p" "$here/mistakes.def" |
    sed 's/\*$/all/'
}
rows=$(listed MICA_MISTAKE)
none=$(listed MICA_NO_MISTAKE)
{
  echo "$rows" | sed 's/^[^ ]* [^ ]* /green any none /' | sort -u
  echo "$none" | sed 's/^/green /'
  echo "$rows" | sed 's/^/red /'
} | xargs -P 2 -L 1 bash -c 'check "$@"' check | tee "$work/report"
# The list in the documentation is this one.
for name in $(echo "$rows"$'\n'"$none" | cut -d' ' -f2 | sort -u); do
  grep -q "\`$name\`" "$here/../../docs/conformance.md" || echo "WRONG $name: not in docs/conformance.md" | tee -a "$work/report"
done
n=$(echo "$rows" | wc -l)
red=$(grep -c '^red ' "$work/report")
echo "$red of $n mistakes seen"
[ "$n" -ge 48 ] && [ "$red" -eq "$n" ] && ! grep -q '^WRONG' "$work/report"
