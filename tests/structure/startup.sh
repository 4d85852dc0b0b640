#!/usr/bin/env bash
# startup.sh SOURCE INCLUDE ARCHIVE SHARED: a program that links the library runs nothing of it before
# main, and asks for no memory there, whatever backends are built in.
set -euo pipefail
source=$1 include=$2 archive=$3 shared=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C
failed=0
complain() {
  echo "$1"
  failed=1
}

# Bytes of the arrays of functions that run before main.
constructors() {
  local bytes n=0
  while read -r bytes; do n=$((n + 16#$bytes)); done < <(readelf -SW "$1" |
    awk '{sub(/^ *\[ *[0-9]+\] */, "")} $1 ~ /^\.(preinit_array|init_array|ctors)/ {print $5}')
  echo "$n"
}
members=$(readelf -SW "$archive" | awk '/^File: / {file = $2}
  {sub(/^ *\[ *[0-9]+\] */, "")}
  $1 ~ /^\.(preinit_array|init_array|ctors)/ {print file}' | sort -u)
[ -z "$members" ] || complain "members of the archive have constructors: $members"

# Counts what is asked for until main begins.
cat >"$work/program.c" <<'C'
#include <stddef.h>
#include <stdio.h>
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
static unsigned long n;
void* malloc(size_t bytes) { return ++n, __libc_malloc(bytes); }
void* calloc(size_t count, size_t bytes) { return ++n, __libc_calloc(count, bytes); }
void* realloc(void* p, size_t bytes) { return ++n, __libc_realloc(p, bytes); }
#ifdef WITH_MICA
#include <mica/mica.h>
#endif
int main(void) {
  const unsigned long before = n;
#ifdef WITH_MICA
  const mica_backend* all[] = {mica_backend_ref(), mica_backend_cpu(), mica_backend_cuda(),
                               mica_backend_vulkan()};
  for (int i = 0; i < 4; ++i)
    if (all[i] == NULL) return 1;
#endif
  return printf("%lu\n", before) < 0;
}
C
compile() { cc -std=gnu99 "-I$source" "-I$source/core/include" "-I$include" "$work/program.c" "$@"; }
compile -o "$work/without"
compile -DWITH_MICA "$archive" -lm -lpthread -o "$work/with_archive"
compile -DWITH_MICA "$archive" -lm -lpthread -Wl,--gc-sections -o "$work/with_archive_gc"
compile -DWITH_MICA "$shared" "-Wl,-rpath,$(dirname "$(realpath "$shared")")" -o "$work/with_shared"
echo 'int nothing;' | cc -shared -fPIC -x c - -o "$work/nothing.so"

usual=$(constructors "$work/nothing.so")
own=$(constructors "$shared")
[ "$own" -eq "$usual" ] || complain "$shared has $own bytes of constructors, an empty library $usual"
usual=$(constructors "$work/without")
wanted=$("$work/without")
for program in with_archive with_archive_gc with_shared; do
  own=$(constructors "$work/$program")
  [ "$own" -eq "$usual" ] ||
    complain "$program has $own bytes of constructors, an empty program $usual"
  n=$("$work/$program")
  [ "$n" -eq "$wanted" ] ||
    complain "$program asks for memory $n times before main, an empty program $wanted times"
done
exit $failed
