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
find_package(mica 0.1 REQUIRED)
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
# A version that is not there is refused.
sed -i 's/mica 0.1 REQUIRED/mica 0.2 REQUIRED/' "$work/project/CMakeLists.txt"
if cmake -G Ninja -S "$work/project" -B "$work/project/build2" "-DCMAKE_PREFIX_PATH=$work/usr" \
  >/dev/null 2>&1; then
  echo "version 0.1 is taken for 0.2"
  exit 1
fi

# A backend's author: the skeleton, built outside the tree, and the installed suite on it.
cp -r "$work/usr/share/mica/backends/template" "$work/backend"
cmake -G Ninja -S "$work/backend" -B "$work/backend/build" "-DCMAKE_PREFIX_PATH=$work/usr" >/dev/null
cmake --build "$work/backend/build" >/dev/null
suite=$work/usr/bin/mica-conformance
plugin=$work/backend/build/libmica_backend_template.so
cd "$work" # nothing of the source tree is in reach, and no path of it is in the program
"$suite" --plugin "$plugin" --op add --write-expect add.txt >/dev/null
grep -q '^add/.*: add: template cannot run it: the template runs nothing$' add.txt
"$suite" --plugin "$plugin" --op add --expect add.txt | grep -q '^0 passed, 0 failed, '
"$suite" --backend cpu:plain --op relu | grep -q '^[1-9][0-9]* passed, 0 failed, '
if grep -qF "$(realpath "$source")/tests" "$suite"; then
  echo "the installed suite names the source tree"
  exit 1
fi
[ -s "$(find "$work/usr/share/doc" -name conformance.md)" ]
echo "installed and used"
