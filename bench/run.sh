#!/usr/bin/env bash
# The trees, then hacktree and ostree side by side. As root; downloads about 1 GB the first time.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/python bench/trees.py
exec .venv/bin/python bench/compare.py "$@"
