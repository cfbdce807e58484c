#!/bin/sh
# Install what tests/anvil.py runs, into .venv: a node of an Ethereum chain and a compiler of contracts, both by npm.
set -eu
cd "$(dirname "$0")/.."

case $(uname -s)-$(uname -m) in
    Linux-x86_64) anvil=anvil-linux-amd64 ;;
    Linux-aarch64) anvil=anvil-linux-arm64 ;;
    Darwin-arm64) anvil=anvil-darwin-arm64 ;;
    *) echo "The tests need anvil, and npm has none for this machine: $(uname -sm)" >&2 && exit 1 ;;
esac
wanted="@foundry-rs/$anvil@1.7.1 solc@0.8.37"
tools=.venv/node
[ "$(cat $tools/installed 2>/dev/null)" != "$wanted" ] || exit 0

echo "Installing $wanted"
# shellcheck disable=SC2086 # a list of packages
npm install --prefix $tools --silent --no-audit --no-fund --no-save --ignore-scripts $wanted
ln -sf "../@foundry-rs/$anvil/bin/anvil" $tools/node_modules/.bin/anvil
echo "$wanted" >$tools/installed
