#!/usr/bin/env bash
# symbols.sh ARCHIVE SHARED: what the library needs and exports.
set -euo pipefail
archive=$1 shared=$2
failed=0
complain() {
  echo "$1"
  failed=1
}

# No way out of the process, no printing, no C++ runtime. NVIDIA's static runtime is not ours, and nvcc
# gives functions of the device a body on the host that exits and that nothing can call.
bad=$(nm -u --no-demangle "$archive" |
  awk '/:$/ {own = $1 !~ /^cudart_/; device = $1 ~ /\.cu\.o:$/}
       own && !(device && $2 == "exit") {print $2}' | sort -u | grep -E \
  '^(abort|exit|_exit|_Exit|quick_exit|__assert_fail|__cxa_.*|_ZSt.*|_Znwm|_Znam|_ZdlPv.*|_ZdaPv.*|_Zn[wa].*|_Unwind.*|__gxx_.*|.*printf.*|puts|putchar|fwrite|perror)$' || true)
[ -z "$bad" ] || complain "the archive refers to: $bad"

# Objects compiled for an instruction set share no inline function with the others.
weak=$(nm --no-demangle "$archive" 2>/dev/null | awk '$2 ~ /^[WVu]$/ && $3 ~ /4mica3cpu(5plain|4avx2|6avx512)/ {print $3}' | sort -u || true)
[ -z "$weak" ] || complain "weak symbols in files compiled for an instruction set: $weak"

needed=$(readelf -d "$shared" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -vE \
  '^(libc|libm)\.so|^ld-linux|^lib(asan|ubsan|tsan|gcc_s)' || true)
[ -z "$needed" ] || complain "the shared library needs: $needed"

exported=$(nm -D --defined-only "$shared" | awk '$2 != "A" {print $3}' | sed 's/@.*//' |
  grep -vE '^mica_' || true)
[ -z "$exported" ] || complain "the shared library exports: $exported"
exit $failed
