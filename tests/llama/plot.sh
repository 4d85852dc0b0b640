#!/bin/sh
# examples/bench/plot.py draws what the benches print: plot.sh BIN_DIR PLOT_PY GOLDEN_DIR. Exit code 77
# (not run) without python3 and matplotlib; PYTHON names another python3.
set -eu
bin=$1
plot=$2
golden=$3
python=${PYTHON:-python3}
if ! "$python" -c "import matplotlib" 2>/dev/null; then
  echo "not run: there is no python3 with matplotlib"
  exit 77
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAILED: $*" && exit 1; }

# drawn PATTERNS BENCH ARGS...: a small SVG in which each of the texts (separated by |) stands.
drawn() {
  patterns=$1
  shift
  "$bin/bench" "$@" -t 2 -o json >"$tmp/result.json" 2>"$tmp/err" || fail "$* -> $(cat "$tmp/err")"
  "$python" "$plot" "$tmp/result.json" "$tmp/a.svg"
  [ "$(wc -c <"$tmp/a.svg")" -le 60000 ] || fail "a large picture: $*"
  echo "$patterns" | tr '|' '\n' >"$tmp/patterns"
  while read -r pattern; do
    grep -qF ">$pattern<" "$tmp/a.svg" || fail "no '$pattern': $*"
  done <"$tmp/patterns"
}
drawn "64 tokens, RoPE plain|64 tokens, RoPE YaRN ×4|moves of the whole conversation|1000|cells moved|µs a move|n_ctx 576|K q4_0|rotated keys" \
  kv-shift -m "$golden/tiny/mha.gguf" -d 32,64 --ctk f16,q4_0
drawn "K f16|K q8_0|cached tokens|relative, moved|unrotated" \
  rope-cache -m "$golden/tiny/mha.gguf" -d 32,64 --ctk f16,q8_0 -r 1
drawn "turns of the conversation|relative deviation from exact edits|seconds an edit|exact edits|moving edits" \
  edits -m "$golden/tokenizer/tiny_spm.gguf" --turns 8 --edits 4
"$python" "$plot" - "$tmp/a.png" <"$tmp/result.json"
[ "$(head -c 4 "$tmp/a.png" | tail -c 3)" = PNG ] || fail "no PNG of the standard input"

# refused PATTERN TEXT: another text is an error of one line.
refused() {
  echo "$2" >"$tmp/result.json"
  "$python" "$plot" "$tmp/result.json" "$tmp/b.svg" 2>"$tmp/err" && fail "accepted: $2"
  grep -q "^plot.py: .*$1" "$tmp/err" || fail "no '$1': $(cat "$tmp/err")"
  [ "$(wc -l <"$tmp/err")" -eq 1 ] || fail "not one line: $(cat "$tmp/err")"
}
refused "no result of bench" '[{"avg_ts": 1}]'
refused "" "| a table |"
refused "" "[]"
echo "pictures drawn"
