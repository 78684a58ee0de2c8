#!/bin/bash
# Makes .venv: the pinned tools and libraries, and the project itself, editable.
#
# Does nothing when .venv already fits: same place, same Python, same locks, same pyproject.toml.
# PYTHON=python3.13 chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
readonly dependencies_stamp=.venv/.hacktree-dependencies
readonly project_stamp=.venv/.hacktree-project

if ! command -v "$python" >/dev/null; then
    echo "hacktree: there is no $python; Python 3.11 or newer is needed" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "hacktree: $("$python" --version) is too old; Python 3.11 or newer is needed" >&2
    echo "  PYTHON=python3.12 make setup   uses another interpreter" >&2
    exit 1
fi

digest() { sha256sum | cut -d' ' -f1; }
# A virtual environment can't be moved, so its place is part of the key.
dependencies=$({ pwd -P && "$python" -c 'import sys; print(sys.version, sys.base_prefix)' &&
    cat requirements/build.lock requirements/dev.lock; } | digest)
project=$({ echo "$dependencies" && cat pyproject.toml; } | digest)

has() { [[ -f $1 && $(<"$1") == "$2" ]]; }
pip() { .venv/bin/python -m pip --disable-pip-version-check -qq "$@"; }

if ! has "$dependencies_stamp" "$dependencies"; then
    PYTHON=$python tools/system-packages.sh venv
    echo "hacktree: making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
    # Backends first: a source distribution is then built with a pinned, checked backend.
    pip install --require-hashes --no-deps --requirement requirements/build.lock
    # No dependencies: the lock is complete, and an old pip would look for newer ones of `x[extra]`.
    pip install --require-hashes --no-deps --no-build-isolation --requirement requirements/dev.lock
    echo "$dependencies" >"$dependencies_stamp"
fi
if ! has "$project_stamp" "$project"; then
    pip install --no-build-isolation --no-deps --editable .
    echo "$project" >"$project_stamp"
fi
# As pip does for whoever installs hacktree: PYTHONDONTWRITEBYTECODE would have every command compile
# all of it again, 0.15 s each time.
.venv/bin/python -m compileall -q common client server
