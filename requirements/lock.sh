#!/usr/bin/env bash
# Resolves pyproject.toml anew into requirements/cpu.txt and requirements/gpu.txt. Run it through `make lock`.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=.venv/bin/uv
common=(
  --quiet --upgrade --no-header --no-annotate --no-emit-index-url --no-emit-find-links
  --python-version 3.11 --python-platform x86_64-manylinux_2_28
  --extra dev --extra bench --overrides requirements/overrides.txt
)
# A folder of wheels that pip is told of may hold the CPU build of torch; otherwise uv knows where it is.
cpu_torch=(--torch-backend cpu)
[ -z "${PIP_FIND_LINKS:-}" ] || cpu_torch=(--find-links "$PIP_FIND_LINKS")

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$uv" pip compile pyproject.toml "${common[@]}" --extra cpu --overrides requirements/overrides-cpu.txt \
  "${cpu_torch[@]}" --output-file "$scratch/cpu.txt" > /dev/null
"$uv" pip compile pyproject.toml "${common[@]}" --extra gpu --output-file "$scratch/gpu.txt" > /dev/null

sed -i 's/^\(torch==[^+]*\)+cpu$/\1/' "$scratch/cpu.txt"  # install.sh finds the CPU build in more than one way
mv "$scratch/cpu.txt" "$scratch/gpu.txt" requirements/
wc -l requirements/cpu.txt requirements/gpu.txt
