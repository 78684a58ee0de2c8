#!/usr/bin/env bash
# The demo with the project's own environment; DIR as the tree if one is given.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/python demo/demo.py "$@"
