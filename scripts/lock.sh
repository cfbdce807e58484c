#!/bin/sh
# Rewrite requirements.lock from pyproject.toml: exact versions with hashes, for every supported Python and platform.
# Arguments go to `uv pip compile`, e.g. `--upgrade` or `--upgrade-package redis`.
set -eu
cd "$(dirname "$0")/.."

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    tools=$(mktemp -d)
    trap 'rm -rf "$tools"' EXIT
    "${PYTHON:-python3}" -m venv "$tools"
    "$tools/bin/python" -m pip install --quiet uv
    uv=$tools/bin/uv
fi

# The lock names no index, so that it installs from whichever one a machine is set up for.
"$uv" pip compile pyproject.toml --output-file requirements.lock --quiet \
    --universal --python-version 3.11 --all-extras --generate-hashes \
    --strip-extras --no-emit-index-url --no-emit-find-links --no-annotate --no-header "$@"

# What the image has of it: the extra `all`, in the same versions.
"$uv" pip compile pyproject.toml --output-file deploy/requirements.lock --quiet --constraint requirements.lock \
    --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
    --strip-extras --extra all
