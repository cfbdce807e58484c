#!/bin/sh
# Make .venv and install requirements.lock and the project in it; `make` calls this when one of them has changed.
# PYTHON names the interpreter to use; by default the first one found that is new enough.
set -eu
cd "$(dirname "$0")/.."

usable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "arqd needs Python 3.11 or later: ${PYTHON:-python3} is missing or too old." \
        "Install one, or name it: make PYTHON=/path/to/python3.12" >&2
    exit 1
}

if ! usable .venv/bin/python; then
    python=$(find_python)
    echo "Making .venv with $("$python" --version)"
    if command -v uv >/dev/null; then
        uv venv --quiet --clear --python "$python" .venv
    elif ! "$python" -m venv --clear .venv; then
        rm -rf .venv
        echo "$python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
fi

echo "Installing what requirements.lock names"
# The hash check is on in both: the lock says which files may be installed, wherever they come from.
if command -v uv >/dev/null; then
    uv pip sync --quiet --require-hashes --python .venv/bin/python requirements.lock
    uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
else
    .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
fi
touch .venv/installed
