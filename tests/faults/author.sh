#!/usr/bin/env bash
# The conformance suite as a backend's author meets it: a backend of two ops is green with its list,
# a hang, a crash and a made-up status are told, and names that do not exist are errors.
#   tests/faults/author.sh CONFORMANCE TWO_OPS_PLUGIN
set -uo pipefail
conformance=$1
plugin=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
die() {
  echo "$1"
  tail -n 8 "$work/out"
  exit 1
}
run() { "$conformance" "$@" >"$work/out" 2>&1; }
two() { run --plugin "$plugin" "$@"; } # its only backend, without --backend
says() { grep -qE -- "$1" "$work/out" || die "not said: $1"; }
n_of() { wc -l <"$1"; }

# Mistakes in the arguments: one sentence, exit code 1.
refused() { # what is said, arguments
  local text=$1 code=0
  shift
  run "$@" --list || code=$?
  [ $code -eq 1 ] || die "$* left with $code"
  says "$text"
}
refused 'seconds are a number above 0, not nan' --timeout nan
refused 'seconds are a number above 0, not inf' --timeout inf
refused 'seconds are a number above 0, not 0' --timeout 0
refused 'a seed is a whole number from 0 on, not -1' --seed -1
refused "$work is a directory, not a list" --expect "$work"
refused 'names ref twice' --backend ref,ref
refused 'names ref twice' --backend ref --backend ref
for list in ref, ,ref ref,,cpu ''; do refused 'has an empty name' --backend "$list"; done
refused 'no-such-option' --no-such-option
refused 'jobs' --jobs 0
refused 'output' -o xml

# A backend without most ops and without a KV cache: green with its list, and only with it.
two --write-expect "$work/list" || die "the list cannot be written"
grep -qx 'kv_append/\*: kv cache: two_ops keeps no KV cache' "$work/list" || die "no line for the KV cache"
two --expect "$work/list" || die "two ops are not green with their list"
says '^add +[1-9][0-9]* +0 '
says '^matmul +[1-9][0-9]* +0 '
two --op kv_append && die "a KV cache that nobody listed is green"
says 'FAIL kv_append/.*: unsupported and not listed: kv cache: two_ops keeps no KV cache'
echo 'add/*: never' >"$work/wrong"
two --op add --expect "$work/wrong" && die "a line for what runs is not stale"
says 'listed as unsupported .*but it runs'
echo 'no reason' >"$work/wrong"
two --op add --expect "$work/wrong" && die "a line without a reason is taken"
says 'wrong:1: not "op/case: reason": no reason'
two --op add --expect "$work/none" && die "a list that is not there is taken"
says 'the list .*none cannot be read'
two --op add --write-expect && die "--write-expect takes no file"

# A case that hangs or crashes is one failure; the rest runs.
two --op add --expect "$work/list" -o json
total=$(grep -c '"result": "pass"' "$work/out")
for fault in hang crash; do
  MICA_FAULT=$fault two --op add --expect "$work/list" --timeout 2 && die "$fault is green"
  n=$(grep -c '^FAIL ' "$work/out")
  [ "$n" -ge 1 ] && [ "$n" -lt "$total" ] || die "$fault: $n of $total failed"
  says '[1-9][0-9]* passed, '
  [ $fault = crash ] || says '^FAIL add/.*: did not end within 2 s and was killed'
  [ $fault = hang ] || says '^FAIL add/.*: crashed with signal 11'
done
MICA_FAULT=status two --op matmul --case '*f32*' --expect "$work/list" && die "status 1234 is green"
says 'FAIL matmul/.*: supports answers status 1234 for matmul; it may answer only'

# Names: unknown ones are errors that name the nearest; globs and parts of names choose.
run --op softmx && die "an unknown op is green"
says 'no op softmx; the nearest names are: .*softmax'
run --backend ref --case relu/f3 && die "an unknown case is green"
says 'no case relu/f3; the nearest names are: .*relu/f32'
variant=$("$conformance" --backend cpu:plain --op softmax --list | grep -m 1 '/naive$')
run --backend cpu:plain --case "${variant%e}" && die "an unknown variant is green"
says "no case ${variant%e}; the nearest names are: $variant"
run --backend cpu:plain --case "$variant" || die "a variant cannot be run alone"
says '^1 passed, 0 failed'
run --explain softmax/nope && die "--explain of an unknown case succeeds"
says 'no case softmax/nope; the nearest names are: .*softmax/'
run --backend cpu:plain --op softmax --variant nonsense && die "an unknown --variant is green"
run --backend cpu,cpo && die "an unknown backend is green"
says 'no backend cpo; there are: ref, cpu'
run --backend ref:f64,fused,cpu:plain --op relu || die "commas of options separate devices"
says '^ref:f64,fused, seed 1$'
run --plugin "$plugin" --backend cpu && die "a plug-in that no --backend names is ignored"
run --op 'sof*' --list || die "a glob names no op"
! grep -qv '^softmax/' "$work/out" || die "sof* lists other ops"
all=$(n_of "$work/out")
run --case 'softmax/f32*' --list || die "a glob names no case"
some=$(n_of "$work/out")
[ "$some" -gt 0 ] && [ "$some" -lt "$all" ] || die "softmax/f32*: $some of $all"
run --case f32 --op softmax --list || die "a part of a name chooses nothing"
! grep -qv '^softmax/.*f32' "$work/out" || die "--case f32 lists other cases"
run --case '*live*' --list || die "*live* chooses nothing"
[ "$(cut -d/ -f1 "$work/out" | sort -u | wc -l)" -gt 3 ] || die "*live* lists few ops"

# --list prints what runs, variants included, no more.
run --backend cpu:plain --op softmax --list && listed=$(n_of "$work/out")
run --backend cpu:plain --op softmax -o json
[ "$listed" -eq "$(grep -c '"id"' "$work/out")" ] || die "$listed listed, others ran"

# Several devices and seeds at once are what they are one by one.
run --backend ref --backend cpu:plain --op relu --seeds 2 --seed 5 -o json || die "relu is red"
[ "$(grep -c '"seed": 6' "$work/out")" -gt 0 ] && [ "$(grep -c '"device": "ref"' "$work/out")" -gt 0 ] ||
  die "a seed or a device is missing"
run --backend ref,cpu:plain --op relu --jobs 3 -o json && cp "$work/out" "$work/three"
run --backend ref,cpu:plain --op relu -o json
diff <(grep -v worst "$work/out") <(grep -v worst "$work/three") >/dev/null ||
  die "three processes say other than one"
echo "two ops are green with their list; hangs, crashes, answers and names are told"
