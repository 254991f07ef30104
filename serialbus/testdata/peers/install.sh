#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Usage: install.sh DIR. Installs the packages of package.json into DIR, unless
# they are there already. Nothing is built or run on installation. Several may
# run at once.
set -eu
here=$(dirname "$0")
mkdir -p "$1"
exec 9>"$1/lock"
flock 9
if [ ! -f "$1/installed" ] || ! cmp -s "$here/package.json" "$1/package.json"; then
    rm -rf "$1/node_modules" "$1/installed"
    cp "$here/package.json" "$1/package.json"
    (cd "$1" && npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error)
    touch "$1/installed"
fi
