#!/usr/bin/env bash
# Answers a question with a real model: installs what is missing, builds, gets the model, runs it.
#   examples/run.sh "Why is the sky blue?"
set -euo pipefail
cd "$(dirname "$0")/.."
. examples/packages.sh
. examples/model.sh
if [ $# -ne 1 ]; then
  echo "usage: examples/run.sh \"question\"" >&2
  exit 1
fi
mica_install g++ cmake ninja-build pkg-config libpcre2-dev python3 python3-pip
model=$(mica_model)
echo "Building (about two minutes the first time) ..." >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# CUDA only where there is a GPU for it, and for that GPU: the code for all of them takes a while.
arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 2>/dev/null | tr -d . || true)
cuda="-DMICA_CUDA=OFF"
[[ "$arch" =~ ^[0-9]+$ ]] && cuda="-DMICA_CUDA=AUTO -DMICA_CUDA_ARCHS=$([ "$arch" -ge 90 ] && echo "${arch}a" || echo "$arch")"
# shellcheck disable=SC2086
if ! { cmake --preset release -DMICA_TESTS=OFF $cuda && cmake --build --preset release; } >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  exit 1
fi
build/release/bin/llama -m "$model" -p "$1" -n 200 --backend auto
