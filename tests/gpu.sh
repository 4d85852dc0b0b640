#!/usr/bin/env bash
# Builds for the GPU of this machine and runs the conformance suite on it. Needs a compiler, cmake,
# ninja and, for CUDA, nvcc 12.8 or later, for Vulkan, glslangValidator; no network.
#   tests/gpu.sh [cuda] [vulkan] [--sanitize] [-- arguments of conformance]
# cuda, vulkan: which backends; neither: cuda where there is an NVIDIA GPU and nvcc, else vulkan.
# --sanitize: also a part of the suite under compute-sanitizer's memcheck and racecheck (CUDA).
# MICA_HEADERS: a folder with CLI/ and nlohmann/, where CLI11 and nlohmann-json are not installed.
# MICA_BUILD: the build folder (build/gpu). MICA_BIN: a folder with a built conformance: no build.
set -euo pipefail
cd "$(dirname "$0")/.."
backends=()
sanitize=0
while [ $# -gt 0 ]; do
  case $1 in
    cuda | vulkan) backends+=("$1") ;;
    --sanitize) sanitize=1 ;;
    --) shift && break ;;
    *) sed -n 's/^#   tests/usage: tests/p' "$0" && exit 2 ;;
  esac
  shift
done
PATH=$PATH:/usr/local/cuda/bin
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 2>/dev/null | tr -d . || true)
if [ ${#backends[@]} -eq 0 ]; then
  if [ -n "$capability" ] && command -v nvcc >/dev/null; then backends=(cuda); else backends=(vulkan); fi
fi
with() { [[ " ${backends[*]} " == *" $1 "* ]] && echo ON || echo OFF; }

bin=${MICA_BIN:-}
if [ -z "$bin" ]; then
  # Code for this GPU alone; of Hopper and Blackwell with what only that chip has.
  arch=$capability
  case $arch in 90 | 100 | 103 | 120 | 121) arch=${arch}a ;; esac
  build=${MICA_BUILD:-build/gpu}
  mkdir -p "$build"
  flags=${CXXFLAGS:-}
  [ -z "${MICA_HEADERS:-}" ] || flags+=" -isystem $(realpath "$MICA_HEADERS")"
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMICA_CUDA="$(with cuda)" \
    -DMICA_VULKAN="$(with vulkan)" ${arch:+"-DMICA_CUDA_ARCHS=$arch"} -DMICA_EXAMPLES=OFF \
    -DMICA_TESTS=ON -DMICA_UNIT_TESTS=OFF "-DCMAKE_CXX_FLAGS=$flags" >"$build/configure.log" 2>&1 ||
    { cat "$build/configure.log"; exit 1; }
  cmake --build "$build" --target conformance
  bin=$build/bin
fi

failed=0
for backend in "${backends[@]}"; do
  echo "== conformance on $backend"
  "$bin/conformance" --backend "$backend" "$@" || failed=1
done

# A seventh of the cases: under the tools they take a hundred times as long.
if [ $sanitize -eq 1 ] && [ "$(with cuda)" = ON ]; then
  for tool in memcheck racecheck; do
    echo "== compute-sanitizer $tool"
    compute-sanitizer --tool $tool --target-processes all --kernel-regex kns=mica \
      "$bin/conformance" --backend cuda --reduced --timeout 3600 "$@" >"$bin/$tool.log" 2>&1 || failed=1
    grep -E '^(FAIL|=+ (ERROR SUMMARY|RACECHECK SUMMARY|Invalid|Error|Race))|passed' "$bin/$tool.log" |
      sort | uniq -c | sort -rn | head -40
    if grep -qE '(ERROR SUMMARY: [1-9]|RACECHECK SUMMARY: [1-9])' "$bin/$tool.log"; then failed=1; fi
  done
fi
exit $failed
