#!/usr/bin/env bash
# additions.sh SOURCE: adds what lies in tests/structure/additions to a copy of the tree: an op with a
# CPU, a CUDA and a Vulkan kernel, a fusion with its CPU kernel, and a composite op that no backend
# has heard of. New files and two lines of ops.def must be all it takes to build, run and test them.
# The kernels of other ops are left out of the copy: that they may be missing is part of the promise
# that a kernel is a file, and it saves the time. Vulkan is built where glslangValidator is and run
# where Mesa's llvmpipe is; CUDA is compiled where nvcc is and run where a GPU is.
set -euo pipefail
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$source" && tar cf - --exclude=./build --exclude=./.git .) | tar xf - -C "$work"
cd "$work"
fail() { echo "$*" >&2 && exit 1; }

n_before=$(find backends core ops -type f | wc -l)
(cd tests/structure/additions && find . -type f) | while read -r file; do
  [ ! -e "$file" ] || fail "$file is not a new file"
done
cp -r tests/structure/additions/. .
n_added=$(($(find backends core ops -type f | wc -l) - n_before))
echo 'MICA_OP(9001, dummy_negate, dummy)' >>ops/ops.def
echo 'MICA_COMPOSITE(dummy_gate, dummy)' >>ops/ops.def

# The composite's members are relu and mul; Vulkan's self-test at opening runs matmul.
keep="dummy_negate dummy_negate_twice relu mul vulkan/matmul"
for file in backends/{cpu,vulkan}/kernels/{,attention/,matmul/}*.{cpp,comp}; do
  name=$(basename "${file%.*}")
  backend=$(cut -d/ -f2 <<<"$file")
  [[ " $keep " == *" $name "* || " $keep " == *" $backend/$name "* ]] || rm -f "$file"
done

export CCACHE_BASEDIR=$work # the copy lies elsewhere each time
launcher=()
command -v ccache >/dev/null &&
  launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
build=$work/build/release
gpu=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 2>/dev/null | tr -d . || true)
arch=${gpu:-90}
[ "$arch" != 90 ] || arch=90a
cmake --preset release -DMICA_EXAMPLES=OFF -DMICA_UNIT_TESTS=OFF -DMICA_CUDA_ARCHS="$arch" \
  "${launcher[@]}" >configure.log 2>&1 || { cat configure.log; exit 1; }
make() { cmake --build "$build" --target "$1" >build.log 2>&1 || { tail -n 30 build.log; exit 1; }; }
has() { [ -s "$build/generated/$1_kernels.def" ]; }
run() { "$build/bin/conformance" --backend "$@"; }

# The CUDA kernel, compiled alone: the other .cu files would take minutes. It is in the list that
# the backend is built of, and defines what the list asks for.
cuda="not built (no nvcc)"
if has cuda; then
  object=cuda/backends_cuda_kernels_dummy_negate.cu.o
  grep -qx 'MICA_KERNEL(dummy_negate)' "$build/generated/cuda_kernels.def" || fail "cuda.cmake lacks it"
  make "$object"
  [ "$(nm -C "$build/$object" | grep -c ' [RD] mica::cuda::kernels_dummy_negate$')" = 1 ] ||
    fail "$object does not define its kernel list"
  cuda="kernel compiled (no GPU here to run it)"
fi
[ -n "$gpu" ] || cmake "$build" -DMICA_CUDA=OFF >configure.log # the program without this backend
make conformance

for device in ref cpu; do
  for op in dummy_negate dummy_gate; do run $device --op $op; done
done
plan=$(run cpu --explain dummy_negate/twice)
grep -q dummy_negate_twice <<<"$plan" || fail "the fusion was not claimed: $plan"

# By its members: relu and mul run, and nothing is named after the composite.
by_members() { # backend
  local text
  text=$(run "$1" --explain dummy_gate/live3of5)
  grep -q 'relu' <<<"$text" && grep -q 'mul' <<<"$text" || fail "$1 runs no members: $text"
}
try_device() { # backend: sets `state`
  local code=0
  run "$1" --op dummy_negate || code=$?
  [ $code != 77 ] || { state="built (no device here)" && return; }
  [ $code = 0 ] && run "$1" --op dummy_gate || fail "$1 fails"
  by_members "$1"
  state="kernel and composite ran"
}
by_members cpu

vulkan="not built (no glslangValidator)"
if has vulkan; then
  export MICA_VULKAN_VALIDATE=1 XDG_RUNTIME_DIR=$work MESA_SHADER_CACHE_DIR=$work/mesa_cache
  icd=(/usr/share/vulkan/icd.d/lvp_icd.*.json)
  [ ! -e "${icd[0]}" ] || export VK_ICD_FILENAMES=${icd[0]}
  try_device vulkan:llvmpipe
  vulkan=$state
fi
if has cuda && [ -n "$gpu" ]; then
  try_device cuda
  cuda=$state
fi
echo "an op, a composite, a fusion and their kernels: $n_added new files and two lines"
echo "Vulkan: $vulkan; CUDA: $cuda"
