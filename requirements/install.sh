#!/usr/bin/env bash
# Makes .venv from a lock and installs this checkout into it. Run it through `make install`.
# PYTHON=...             the interpreter to use (default python3)
# RAYBATCH_LOCK=cpu|gpu  the lock to use (default: gpu where an NVIDIA driver is loaded)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
lock_name=${RAYBATCH_LOCK:-}
if [ -z "$lock_name" ]; then
  lock_name=cpu
  if [ -e /proc/driver/nvidia/version ] || nvidia-smi > /dev/null 2>&1; then lock_name=gpu; fi
fi
lock=requirements/$lock_name.txt
[ -f "$lock" ] || { echo "RAYBATCH_LOCK is '$lock_name'; it must be cpu or gpu." >&2; exit 2; }

stamp=.venv/.raybatch-installed
wanted="$lock_name $(cat "$lock" pyproject.toml requirements/install.sh | sha256sum | cut -d ' ' -f 1) $PWD"
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then exit 0; fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
  found=$("$python" --version 2>&1 || true)
  echo "raybatch needs Python 3.11 or newer; '$python' is: ${found:-not found}." >&2
  echo "Install one, or name one: make install PYTHON=/path/to/python3.11" >&2
  exit 2
fi

rm -f "$stamp"
[ -x .venv/bin/python ] || "$python" -m venv .venv
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet uv

# uv does not read pip's settings; these two matter where an index or a folder of wheels is prescribed.
export VIRTUAL_ENV=$PWD/.venv
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}
wheels=()
[ -z "${PIP_FIND_LINKS:-}" ] || wheels=(--find-links "$PIP_FIND_LINKS")
install() { .venv/bin/uv pip install --quiet "$@"; }

install_cpu_torch() {
  local torch
  torch=$(grep '^torch==' "$lock")
  if [ ${#wheels[@]} -gt 0 ] && install --no-deps "${wheels[@]}" "$torch+cpu" 2> /dev/null; then return; fi
  if install --no-deps --torch-backend cpu "$torch"; then return; fi
  echo "The CPU build of torch could not be fetched; taking the CUDA build, which is larger and works too." >&2
  install "${wheels[@]}" --constraints "$lock" "$torch"
}

[ "$lock_name" = gpu ] || install_cpu_torch
install --no-deps "${wheels[@]}" --requirements "$lock"
install --no-deps --editable .

# Where Python is told to write no bytecode, each process would compile vLLM and Ray anew, 20 s of it: write it once.
if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then
  echo "Writing bytecode once, because PYTHONDONTWRITEBYTECODE would keep Python from it."
  env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -c \
    'import ray.serve, transformers.models.auto, vllm.entrypoints.launchers.api_server.app_state; import vllm.entrypoints.launchers.app, vllm.v1.engine.async_llm, vllm.v1.worker.worker_base' > /dev/null 2>&1 || true
fi
echo "$wanted" > "$stamp"
echo "Installed ($lock_name) in $SECONDS s: try .venv/bin/raybatch --help"
