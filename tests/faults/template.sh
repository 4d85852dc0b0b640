#!/usr/bin/env bash
# A backend that runs nothing is not green: every case is "unsupported" with a reason, which fails
# unless a list says so; and a list that says too much or too little fails too.
#   tests/faults/template.sh CONFORMANCE TEMPLATE_PLUGIN
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
run() { "$conformance" --plugin "$plugin" --backend template "$@" >"$work/out" 2>&1; }
conformance=$1
plugin=$2
die() {
  echo "$1"
  tail -n 5 "$work/out"
  exit 1
}

# The template keeps no KV cache either: ops that need one cannot even be described.
ops="add matmul silu softmax concat"
for op in $ops; do
  run --op "$op" --expect /dev/null && die "$op is green on a backend that runs nothing"
  grep -q 'unsupported and not listed: .*template cannot run it: the template runs nothing' \
    "$work/out" || die "$op: the reason is missing"
  ! grep -q '[1-9][0-9]* passed' "$work/out" || die "$op: a case passed"
  run --op "$op" --write-expect "$work/$op.txt" || die "$op: the list was not written"
  run --op "$op" --expect "$work/$op.txt" || die "$op: not green with its own list"
  sed -i '2d' "$work/$op.txt"
  run --op "$op" --expect "$work/$op.txt" && die "$op: green with a line missing"
done
echo "unsupported on template, and said so: $ops"
