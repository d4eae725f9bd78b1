#!/usr/bin/env bash
# Makes .cache/queues: the task queues that jobs/queues.py compares with, free of this project's versions. The servers
# they need come from the system. Run it through `make queues`; with `lock`, it resolves their lock anew.
# PYTHON=...  the interpreter to use (default python3)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
uv=$PWD/.venv/bin/uv
home=$PWD/.cache/queues

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
  wanted="$(cat requirements/queues* | sha256sum | cut -d ' ' -f 1) $PWD"
  if [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then return; fi
  rm -rf "$home"
  "$python" -m venv --without-pip "$home"
  VIRTUAL_ENV=$home "$uv" pip install --quiet --no-deps --require-hashes "${wheels[@]}" \
    --requirements requirements/queues.txt
  echo "$wanted" > "$stamp"
  echo "Installed the task queues in $SECONDS s."
}

lock() {
  mkdir -p "$(dirname "$home")"
  "$uv" pip compile requirements/queues.in --quiet --upgrade --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    "${wheels[@]}" --output-file "$home.txt" > /dev/null
  mv "$home.txt" requirements/queues.txt
}

main "$@"
