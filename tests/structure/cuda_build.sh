#!/usr/bin/env bash
# cuda_build.sh SOURCE [ARCHS]: builds the CUDA part for all architectures that are shipped, without a
# compiler cache, and holds it against its budgets: a library of 40 MB, and 8 minutes an
# architecture on two cores. Takes half an hour: ctest -C whole -R cuda_build.
#
# Time is nvcc's CPU time, which other work on the machine changes little; nvcc says for each file
# how long every phase took. To an architecture count its own phases and those that all share.
set -euo pipefail
source=$(realpath "$1")
archs=${2:-80;90a;80-virtual}
command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || { echo "there is no nvcc" && exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/times"
cat >"$work/launcher" <<EOF
#!/usr/bin/env bash
case \$1 in
  *nvcc)
    name=\$(basename "\${!#}")
    TIMEFORMAT='%U %S'
    exec 3>&2
    { time "\$@" --time "$work/times/\$name.csv" 2>&3; } 2>"$work/times/\$name.cpu"
    ;;
  *) if command -v ccache >/dev/null; then exec ccache "\$@"; else exec "\$@"; fi ;;
esac
EOF
chmod +x "$work/launcher"
cmake -G Ninja -S "$source" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DMICA_CUDA=ON "-DMICA_CUDA_ARCHS=$archs" \
  -DMICA_TESTS=OFF -DMICA_EXAMPLES=OFF -DCMAKE_C_COMPILER_LAUNCHER="$work/launcher" \
  -DCMAKE_CXX_COMPILER_LAUNCHER="$work/launcher" >"$work/log" || { cat "$work/log" && exit 1; }
cmake --build "$work/build" -j2 --target mica_shared >"$work/log" 2>&1 || { tail -n 30 "$work/log"; exit 1; }

# A line a file and architecture: CPU seconds, architecture, file.
for csv in "$work"/times/*.csv; do
  awk -F ' *, *' -v archs="$archs" -v cpu="$(cat "${csv%.csv}.cpu")" -v file="$(basename "$csv" .o.csv)" '
    $NF != "ms" {next}
    {
      all += $(NF - 1)
      own = $2 == "cicc" || $2 == "ptxas" || $2 ~ /preprocessing 1/
      arch = $5
      sub(/.*_/, "", arch)
      if (!own) common += $(NF - 1)
      else if ($2 == "ptxas") ptxas[arch] += $(NF - 1)
      else front[arch] += $(NF - 1)
    }
    END {
      split(cpu, t, " ")
      n = split(archs, list, ";")
      for (i = 1; i <= n; ++i) {
        base = list[i]
        real = sub(/-virtual/, "", base) == 0
        ms = common + front[base] + (real ? ptxas[base] : 0)
        printf "%.1f %s %s\n", (t[1] + t[2]) * ms / all, list[i], file
      }
    }' "$csv"
done >"$work/rows"
echo "files that take longest, CPU seconds for an architecture:"
sort -rn "$work/rows" | head -n 12
failed=0
while read -r arch minutes; do
  echo "$arch: $minutes minutes on two cores"
  if awk "BEGIN {exit !($minutes > 8)}"; then
    echo "$arch takes more than 8 minutes"
    failed=1
  fi
done < <(awk '{t[$2] += $1} END {for (a in t) printf "%s %.1f\n", a, t[a] / 120}' "$work/rows")

library=$(readlink -f "$work/build/libmica.so")
strip -o "$work/stripped" "$library"
bytes=$(stat -c %s "$work/stripped")
echo "library: $bytes bytes"
if [ "$bytes" -gt 40000000 ]; then
  echo "the library has more than 40 MB; its largest device code:"
  du -b "$work"/build/cuda/*.cu.o | sort -rn | head -n 12
  failed=1
fi
exit $failed
