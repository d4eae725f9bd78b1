#!/usr/bin/env bash
# Makes .cache/queues: the task queues that jobs/queues.py compares with, free of this project's versions. The servers
# they need come from the system. And .cache/ray-data: what Ray Data imports and .venv lacks. Run it through
# `make queues`; with `lock`, it resolves their locks anew.
# PYTHON=...  the interpreter to use (default python3)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
uv=$PWD/.venv/bin/uv
home=$PWD/.cache/queues
ray_data=$PWD/.cache/ray-data

# uv does not read pip's settings; these two matter where an index or a folder of wheels is prescribed.
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}
wheels=()
[ -z "${PIP_FIND_LINKS:-}" ] || wheels=(--find-links "$PIP_FIND_LINKS")

main() {
  if [ "${1:-}" = lock ]; then
    lock
    return
  fi
  local stamp=$home/.installed wanted
  wanted="$(cat requirements/queues* requirements/ray-data* | sha256sum | cut -d ' ' -f 1) $PWD"
  if [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then return; fi
  rm -rf "$home" "$ray_data"
  "$python" -m venv --without-pip "$home"
  VIRTUAL_ENV=$home "$uv" pip install --quiet --no-deps --require-hashes "${wheels[@]}" \
    --requirements requirements/queues.txt
  "$uv" pip install --quiet --no-deps --require-hashes --python .venv/bin/python --target "$ray_data" \
    "${wheels[@]}" --requirements requirements/ray-data.txt
  echo "$wanted" > "$stamp"
  echo "Installed the task queues in $SECONDS s."
}

lock() {
  mkdir -p "$(dirname "$home")"
  resolve queues
  resolve ray-data --no-emit-package numpy  # .venv has it
}

resolve() {
  "$uv" pip compile "requirements/$1.in" "${@:2}" --quiet --upgrade --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    "${wheels[@]}" --output-file "$home.txt" > /dev/null
  mv "$home.txt" "requirements/$1.txt"
}

main "$@"
