#!/bin/bash
# Regenerates requirements/*.lock from pyproject.toml; pins stay unless --upgrade is given.
# The resolver lives in a throwaway environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly resolver=uv==0.13.9
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch"
"$scratch/bin/pip" install --quiet --disable-pip-version-check "$resolver"

compile() { # OUTPUT [OPTION...]
    local output=$1
    shift
    "$scratch/bin/uv" pip compile --quiet --no-config --no-header --universal \
        --python-version 3.11 --generate-hashes --output-file "$output" "$@"
}

mkdir -p requirements
compile requirements/dev.lock --group dev pyproject.toml "$@"
# The other two are subsets of the first.
compile requirements/build.lock --group build --constraint requirements/dev.lock
compile requirements/runtime.lock --constraint requirements/dev.lock pyproject.toml
wc -l requirements/*.lock
