#!/usr/bin/env bash
# install.sh SOURCE BUILD: installs the build and uses it as a stranger would: a C99 program against the
# archive with cc alone, and a CMake project with find_package.
set -euo pipefail
source=$1 build=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/usr" >/dev/null
lib=$(dirname "$(find "$work/usr" -name libmica.a)")

cc -std=c99 -pedantic -Wall -Wextra -Werror "-I$work/usr/include" "$source/examples/minimal.c" \
  "$lib/libmica.a" -lm -lpthread -o "$work/minimal"
"$work/minimal" | tee "$work/out"
grep -q '^y\[0\] = 0.731059$' "$work/out" # silu(1)
if ldd "$work/minimal" | grep -E 'stdc\+\+|gcc_s|libdl'; then
  echo "a C program needs more than libc and libm"
  exit 1
fi

mkdir "$work/project"
cp "$source/examples/minimal.c" "$work/project/"
cat >"$work/project/CMakeLists.txt" <<'C'
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES C CXX)
find_package(mica REQUIRED)
add_executable(with_archive minimal.c)
target_link_libraries(with_archive PRIVATE mica::mica)
add_executable(with_shared minimal.c)
target_link_libraries(with_shared PRIVATE mica::mica_shared)
C
cmake -G Ninja -S "$work/project" -B "$work/project/build" "-DCMAKE_PREFIX_PATH=$work/usr" >/dev/null
cmake --build "$work/project/build" >/dev/null
"$work/project/build/with_archive" >/dev/null
"$work/project/build/with_shared" >/dev/null

# A shared object that links the archive re-exports nothing of it.
echo '#include <mica/mica.h>
const char* plugin_version(void) { return mica_version(); }' >"$work/plugin.c"
cc -shared -fPIC "-I$work/usr/include" "$work/plugin.c" "$lib/libmica.a" -lm -lpthread \
  -o "$work/plugin.so"
if nm -D --defined-only "$work/plugin.so" | grep ' mica_'; then
  echo "a shared object that links the archive re-exports it"
  exit 1
fi
echo "installed and used"
