#!/usr/bin/env bash
# Proves that graph_fuzz can fail: each of these mistakes of mistakes.def is found within the graphs
# that run in CI, and without a mistake the same graphs are green.
#   tests/faults/fuzz.sh GRAPH_FUZZ FAULTY_PLUGIN
set -uo pipefail
fuzz=$1
plugin=$2
count=1000 # as tests/CMakeLists.txt says
bad=0

check() { # mistake or "none", device, number of graphs
  local out code=0
  out=$(MICA_FAULT=$1 "$fuzz" --plugin "$plugin" --backend "$2" --count "$3" --brief 2>&1) || code=$?
  if [ "$1" = none ] && [ $code -eq 0 ]; then
    echo "green on $2"
  elif [ "$1" != none ] && [ $code -eq 1 ]; then
    echo "red   $1: $(sed -n '/^graph /p' <<<"$out" | cut -c 1-150)"
  else
    echo "WRONG $1 on $2: left with $code"
    tail -n 5 <<<"$out"
    bad=1
  fi
}

check none ref:f64,fused 100
check none ref:q8_32 100
check extent_ignored_add ref "$count"
check copy_view_offset ref "$count"
check fused_add_by_size ref:f64,fused "$count"
check matmul_one_scale ref:q8_32 "$count"
check attention_window_off_by_one ref:f16 "$count"
check attention_two_percent ref:q8_32 "$count"
check kv_append_next_cell ref "$count"
check kv_append_one_per_mille ref:q8_32 "$count"
check nondeterministic ref "$count"
check overrun ref "$count"
check crash ref "$count"
exit $bad
