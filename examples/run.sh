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
mica_install g++ cmake ninja-build pkg-config libpcre2-dev libcli11-dev nlohmann-json3-dev python3 python3-pip
model=$(mica_model)
echo "Building (about two minutes the first time) ..." >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { cmake --preset release -DMICA_TESTS=OFF && cmake --build --preset release; } >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  exit 1
fi
build/release/bin/llama -m "$model" -p "$1" -n 200
