#!/usr/bin/env bash
# Builds and runs the tests under CTest; installs what is missing first.
#   tests/run.sh         the release build: unit, conformance, model and program tests; the CUDA
#                        backend where there is an NVIDIA GPU
#   tests/run.sh --all   also under sanitizers, more seeds, Vulkan at several subgroup sizes, the CUDA
#                        kernels compiled and emulated, format and lint (what CI runs)
set -euo pipefail
cd "$(dirname "$0")/.."
. examples/packages.sh
. examples/model.sh
all=0
[ "${1:-}" = "--all" ] && all=1
mica_install g++ cmake ninja-build pkg-config ccache libpcre2-dev libcli11-dev nlohmann-json3-dev libgtest-dev \
  python3 python3-pip glslang-tools libvulkan-dev mesa-vulkan-drivers vulkan-validationlayers \
  $([ $all -eq 0 ] || echo clang-format clang-tidy)
MICA_MODEL=$(mica_model) || { echo "Tests that need the model are skipped." >&2; MICA_MODEL=; }
export MICA_MODEL
at_once=-j2 # tests: much of each is the reference's arithmetic, on one core
launcher="-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache"

if [ $all -eq 1 ]; then
  # Kernels are half of what is compiled: under sanitizers those that run here. Threads are not in them.
  newest=$(grep -qs '^flags.* avx512f' /proc/cpuinfo && echo avx512 || echo avx2)
  for preset in asan-ubsan tsan; do
    echo "== $preset"
    [ $preset = tsan ] && newest=avx2
    cmake --preset $preset -DMICA_CPU_NEWEST=$newest $launcher >/dev/null
    cmake --build --preset $preset --target sanitized
    ctest --preset $preset $at_once -L sanitize
  done
fi
echo "== release"
# One architecture of CUDA: that it compiles is what a machine without a GPU can see, and takes minutes.
on_all=$([ $all -eq 1 ] && echo ON || echo OFF)
cuda=$([ $all -eq 1 ] || command -v nvidia-smi >/dev/null && echo AUTO || echo OFF)
cmake --preset release -DMICA_TESTS=ON -DMICA_CUDA=$cuda -DMICA_CUDA_ARCHS=90a -DMICA_WERROR=$on_all \
  -DMICA_CUDA_EMULATION=$on_all $launcher >/dev/null
cmake --build --preset release
ctest --preset release $at_once -LE "^$([ $all -eq 1 ] && echo some || echo all)$"
