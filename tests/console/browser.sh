#!/usr/bin/env bash
# Makes .cache/browser: the Chromium and the accessibility rules that tests/console drives and applies, from npm, so that
# no browser need be installed. Needs .cache/clients for its Node. Run it through `make browser`.
set -euo pipefail
cd "$(dirname "$0")/../.."

from=tests/console
home=$PWD/.cache/browser
node=$PWD/.cache/clients/node/nodejs

main() {
  local wanted
  wanted="$(cat "$from/package.json" "$from/package-lock.json" "$from/unpack.mjs" | sha256sum | cut -d ' ' -f 1)"
  if [ "$(cat "$home/.installed" 2> /dev/null)" = "$wanted" ]; then return; fi
  rm -rf "$home"
  mkdir -p "$home"
  cp "$from/package.json" "$from/package-lock.json" "$from/unpack.mjs" "$home"
  cd "$home"
  PATH=$node/bin:$PATH node "$node/lib/node_modules/npm/bin/npm-cli.js" ci --silent --ignore-scripts --no-audit --no-fund
  # the name of that place makes the package unpack the libraries too, which a bare machine lacks
  AWS_EXECUTION_ENV=AWS_Lambda_nodejs22.x TMPDIR=$home PATH=$node/bin:$PATH node unpack.mjs
  echo "$wanted" > .installed
  echo "Installed the browser in $SECONDS s."
}

main "$@"
