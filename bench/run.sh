#!/usr/bin/env bash
# The trees, then hacktree and ostree side by side: whole objects, then delta packs; then bisections.
# As root; downloads about 1 GB the first time. Arguments go to the first comparison.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/python -m bench.trees
.venv/bin/python -m bench.compare "$@"
.venv/bin/python -m bench.builds
.venv/bin/python -m bench.deltas
exec .venv/bin/python -m bench.bisect
