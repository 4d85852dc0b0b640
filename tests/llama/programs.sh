#!/bin/sh
# The example programs as a user meets them: programs.sh BIN_DIR GOLDEN_DIR. What goes wrong must end
# with exit code 1 and one line on stderr. With MICA_MODEL set, the real model is asked too.
set -u
bin=$1
golden=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failures=0
mha=$golden/tiny/mha.gguf
spm=$golden/tokenizer/tiny_spm.gguf

wrong() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

# refused PATTERN PROGRAM ARGS...: exit code 1, one line that matches.
refused() {
  pattern=$1
  shift
  program=$1
  "$bin/$@" >"$tmp/out" 2>"$tmp/err" </dev/null
  code=$?
  [ $code -eq 1 ] || wrong "exit code $code, not 1: $*"
  [ "$(wc -l <"$tmp/err")" -eq 1 ] || wrong "not one line: $* -> $(cat "$tmp/err")"
  grep -q "^$program: .*$pattern" "$tmp/err" || wrong "no '$pattern': $* -> $(cat "$tmp/err")"
}

# accepted PATTERN PROGRAM ARGS...: exit code 0, a line of stdout or stderr that matches ("": any).
accepted() {
  pattern=$1
  shift
  "$bin/$@" >"$tmp/out" 2>"$tmp/err" </dev/null || wrong "exit code $?: $* -> $(cat "$tmp/err")"
  [ -z "$pattern" ] || cat "$tmp/out" "$tmp/err" | grep -q -e "$pattern" || wrong "no '$pattern': $*"
}

head -c 3000 "$mha" >"$tmp/truncated.gguf"
head -c 100 /dev/zero >"$tmp/zeros.gguf"
for command in "llama -p hello" "eval --tokenize x" "eval --ids 1 --logits $tmp/x" "bench -p 8 -n 0"; do
  # shellcheck disable=SC2086 # the command is words
  set -- $command
  refused "no such file" "$@" -m "$tmp/missing.gguf"
  refused "directory" "$@" -m "$tmp"
  refused "" "$@" -m "$tmp/truncated.gguf"
  refused "" "$@" -m "$tmp/zeros.gguf"
  refused "no backend" "$@" -m "$spm" --backend nonsense
  refused "not expected" "$@" --nonsense
  refused "with -m" "$@"
done
refused "there is no type" llama -m "$spm" -p hello --ctk q9
refused "there is no type" bench -m "$spm" --ctv q9
refused "there is no type" eval -m "$spm" --ids 1 --logits "$tmp/x" --ctk q9
refused "the context holds 1" llama -m "$spm" -p hello -c 1
refused "the context holds 8" llama -m "$spm" -p "one two three four five six seven" -c 8
refused "give a prompt" llama -m "$spm"
refused "not both" llama -m "$spm" -p a -f "$mha"
refused "cannot open" llama -m "$spm" -f "$tmp/missing.txt"
refused "needs --logits" eval -m "$mha" --ids 1,2
refused "token 300, there are 300" eval -m "$mha" --ids 1,300 --logits "$tmp/x"
refused "the text has" eval -m "$spm" -f "$golden/../CMakeLists.txt" -c 100000
refused "is not NAME:TYPE" bench --shape nonsense:q4_0
refused "is required" quantize "$mha"
refused "no such file" quantize "$tmp/missing.gguf" "$tmp/out.gguf" q8_0
refused "there is no type" quantize "$mha" "$tmp/out.gguf" q9_9
refused "cannot create" quantize "$mha" "$tmp/no/such/dir.gguf" q8_0

# A FIFO that nobody reads or writes: no program waits for it, and none puts a file in its place.
mkfifo "$tmp/fifo"
refused "not a regular file" llama -m "$tmp/fifo" -p hello
refused "not a regular file" quantize "$tmp/fifo" "$tmp/out.gguf" q8_0
refused "not a regular file" quantize "$mha" "$tmp/fifo" q8_0
refused "not a regular file" bench --shape smollm2-135m:q4_0 --write "$tmp/fifo"
refused "not a regular file" llama -m "$spm" -p hello --prompt-cache "$tmp/fifo"
refused "give a prompt" llama -m "$spm" -f "$tmp/fifo"
refused "the text has" eval -m "$spm" -f "$tmp/fifo"
refused "cannot create" eval -m "$mha" --ids 1 --logits "$tmp/fifo"
refused "neither a regular file nor a pipe" llama -m "$spm" -f /dev/zero
[ -p "$tmp/fifo" ] || wrong "the FIFO is gone"
(sleep 0.5 && echo hello) >"$tmp/fifo" &
sleep 0.1
accepted "generation 2 tokens" llama -m "$spm" -f "$tmp/fifo" -n 2 -t 2

accepted "generation 8 tokens" llama -m "$spm" -p hello -n 8 --temp 0 -t 2
# A saved prompt serves a longer one, another one and its own start; the rest of the file is dropped.
saved="--raw -n 1 --temp 0 -t 2 --prompt-cache $tmp/saved"
# shellcheck disable=SC2086 # it is words
{
  accepted "^reused 0 of 10 tokens" llama -m "$spm" -p "hello world hello" $saved
  accepted "^reused 9 of 10 tokens" llama -m "$spm" -p "hello world hello" $saved
  accepted "^reused 10 of 12 tokens" llama -m "$spm" -p "hello world hello there" $saved
  accepted "^reused 6 of 7 tokens" llama -m "$spm" -p "hello world" $saved
  refused "tokens, the context holds 6 (-c makes it larger" llama -m "$spm" -p a -c 6 $saved
}
accepted "context is full" llama -m "$spm" -p hello -c 64 --temp 1 -s 7 -t 2
accepted "^1,300$" eval -m "$spm" --tokenize " "
accepted "" eval -m "$mha" --ids 1,2,3 --logits "$tmp/logits.f32"
[ "$(wc -c <"$tmp/logits.f32")" -eq $((3 * 300 * 4)) ] || wrong "size of the logits file"
accepted '"test": "pp8 @ d16"' bench -m "$mha" -p 8 -n 4 -d 0,16 -r 2 -t 2 -o json
accepted 'tg4' bench -m "$mha" -p 8 -n 4 -r 1 -t 2 --ctk q8_0 --ctv q8_0
accepted 'avg_ts' bench -m "$mha" -p 8 -n 0 -r 1 -t 2 -o csv
accepted 'tg4 x 3' bench -m "$mha" -p 8 -n 4 -d 0,8 -r 1 -t 2 --seqs 1,3
[ "$(grep -c pp8 "$tmp/out")" -eq 2 ] || wrong "prompts are measured once a depth"
accepted '"n_seqs": 2' bench -m "$mha" -p 0 -n 4 -r 1 -t 2 --seqs 2 --logits -o json
refused "seqs must be 1" bench -m "$mha" --seqs 0
accepted '"rope": "YaRN x4".*"off fresh": 0.00e+00}' bench kv-shift -m "$mha" -d 64 --ctk f16,q4_0 \
  -t 2 -o json
# Rotated keys are encoded again with each move; others are as they were, after a thousand too.
[ "$(grep -c '"moves": 1000.*"off fresh": 0.00e+00' "$tmp/out")" -eq 8 ] || wrong "keys changed"
grep -q '"q4_0", "keys": "rotated".*"moves": 100,.*"off fresh": 0.00e+00' "$tmp/out" &&
  wrong "rotated keys did not change"
accepted '^| 128 | q8_0 ' bench rope-cache -m "$mha" -d 64,128 --ctk f16,q8_0 -r 1 -t 2
accepted '^| 4 | ' bench edits -m "$spm" --turns 4 --edits 2 -t 2
refused "there is no type" bench kv-shift -m "$mha" --ctk f16,q9
refused "parts must be 1" bench kv-shift -m "$mha" --parts 0
accepted "^y\[2\] = 10.499711$" minimal

# Devices: every backend has a line, and asking for one that is not there says why.
for program in llama eval bench; do
  accepted "^cpu  .*iB" $program --list-devices
  accepted "^ref  " $program --list-devices
  accepted "^cuda[: ]" $program --list-devices
  accepted "^vulkan[: ]" $program --list-devices
done
accepted "auto took [a-z]*: " llama -m "$spm" -p hello -n 2 --backend auto
(
  CUDA_VISIBLE_DEVICES=-1 VK_ICD_FILENAMES=/nowhere VK_DRIVER_FILES=/nowhere
  export CUDA_VISIBLE_DEVICES VK_ICD_FILENAMES VK_DRIVER_FILES
  failures=0
  refused "CUDA" llama -m "$spm" -p hello --backend cuda
  refused "CUDA" eval -m "$spm" --ids 1 --logits "$tmp/x" --backend cuda:1
  refused "[Vv]ulkan" bench -m "$mha" --backend vulkan
  accepted "^cuda  *not available: .*CUDA" llama --list-devices
  accepted "^vulkan  *not available: .*ulkan" llama --list-devices
  accepted "auto took cpu: " llama -m "$spm" -p hello -n 2 --backend auto
  exit $failures
) || wrong "without devices"
refused "MODEL.gguf" embed
refused "no such file" embed "$tmp/missing.gguf" hello
"$bin/embed" "$spm" hello >"$tmp/out" 2>&1 || wrong "embed: $(cat "$tmp/out")"

# Ctrl-C: the text stops, the summary comes, the exit code is that of an interrupted program.
: >"$tmp/out"
"$bin/llama" -m "$spm" -p hello --temp 0 -c 100000 -t 2 >"$tmp/out" 2>"$tmp/err" </dev/null &
pid=$!
tries=0
while [ ! -s "$tmp/out" ] && [ $tries -lt 100 ]; do
  sleep 0.1
  tries=$((tries + 1))
done
kill -INT $pid
wait $pid
code=$?
[ $code -eq 130 ] || wrong "exit code $code after Ctrl-C"
grep -q "generation .* tokens" "$tmp/err" || wrong "no summary after Ctrl-C: $(cat "$tmp/err")"

# A NaN in the last tensor's last weights: no text of token 0, no perplexity of nan.
cp "$mha" "$tmp/nan.gguf"
printf '\000\000\300\177' |
  dd of="$tmp/nan.gguf" bs=1 seek=$(($(wc -c <"$mha") - 4)) conv=notrunc 2>"$tmp/err"
refused "not a finite number" llama -m "$tmp/nan.gguf" -p hello -n 4
refused "not a finite number" eval -m "$tmp/nan.gguf" --ids 1,2 --logits "$tmp/x"
for i in 1 2 3 4 5 6 7 8 9; do echo "one two three four five $i"; done >"$tmp/text"
refused "not a finite number" eval -m "$tmp/nan.gguf" -f "$tmp/text" -c 16
accepted "warning: 1 values of the tensor .* are infinite or NaN" quantize "$tmp/nan.gguf" "$tmp/o" q8_0

# Files that are being written: whatever ends the program leaves nothing behind. The input is one
# F32 tensor of 400 MB that takes no room on the disk.
mkdir "$tmp/written"
{
  printf 'GGUF\003\000\000\000\001\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000'
  printf '\001\000\000\000\000\000\000\000x\002\000\000\000\000\020\000\000\000\000\000\000'
  printf '\250\141\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000'
} >"$tmp/large.gguf"
truncate -s $((96 + 4096 * 25000 * 4)) "$tmp/large.gguf"
ended_by() {
  signal=$1
  number=$2
  shift 2
  "$bin/$@" >"$tmp/out" 2>"$tmp/err" </dev/null &
  pid=$!
  sleep 0.4
  kill "-$signal" $pid
  wait $pid
  code=$?
  [ $code -eq $((128 + number)) ] || wrong "exit code $code after SIG$signal: $*"
  [ -z "$(ls -A "$tmp/written")" ] || wrong "SIG$signal leaves $(ls -A "$tmp/written"): $*"
}
for signal in "INT 2" "TERM 15" "HUP 1"; do
  # shellcheck disable=SC2086 # the signal is two words
  ended_by $signal quantize "$tmp/large.gguf" "$tmp/written/o" q6_k -t 1
done
ended_by TERM 15 bench --shape tinyllama-1.1b:f32 --write "$tmp/written/o"
for program in "quantize $tmp/large.gguf $tmp/written/o q8_0" \
  "bench --shape smollm2-135m:q4_0 --write $tmp/written/o"; do
  (
    ulimit -f 100
    failures=0
    # shellcheck disable=SC2086 # the command is words
    refused "failed: File too large" $program
    exit $failures
  ) || wrong "a file that may not grow: $program"
  [ -z "$(ls -A "$tmp/written")" ] || wrong "a failed write leaves $(ls -A "$tmp/written")"
done
rm "$tmp/large.gguf"

# Every type: written, read back, and close to the original's perplexity on its own vocabulary.
for type in f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q4_k q5_k q6_k; do
  accepted "out-$type" quantize "$spm" "$tmp/out-$type.gguf" $type
  accepted "generation 2 tokens" llama -m "$tmp/out-$type.gguf" -p hello -n 2 --temp 1 -s 1 -t 2
done
[ -z "$(find "$tmp" -name '*.part*')" ] || wrong "an unfinished file is left"

if [ -n "${MICA_MODEL:-}" ]; then
  # Greedy answers; the first is llama.cpp's too (golden/greedy).
  accepted "^The answer to this question lies in the concept of" llama -m "$MICA_MODEL" --temp 0 \
    -p "Why is the sky blue during the day but red at sunset?" -n 10
  accepted "is 4" embed "$MICA_MODEL" "What is 2+2?"
  refused "the context holds 1" llama -m "$MICA_MODEL" -p hello -c 1
else
  echo "not run: MICA_MODEL does not name a model"
fi
[ $failures -eq 0 ] && echo "all programs behave"
exit $((failures != 0))
