#!/usr/bin/env bash
# A virtual environment with the locked dependencies; does nothing when the lock has not changed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "hacktree needs Python 3.11 or newer; $python is $("$python" --version)." >&2
    echo "Name another: make PYTHON=python3.12 ..." >&2
    exit 1
fi
wanted=$(cat requirements/dev.lock pyproject.toml | sha256sum)
if [ -x .venv/bin/hacktree ] && [ "$(cat .venv/hacktree-lock 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y python3-venv
    else
        echo "Python's venv module is missing: install python3-venv, then run this again." >&2
        exit 1
    fi
fi
"$python" -m venv .venv
.venv/bin/python -m pip install --quiet --require-hashes -r requirements/dev.lock
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
echo "$wanted" >.venv/hacktree-lock
