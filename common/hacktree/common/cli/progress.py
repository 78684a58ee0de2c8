"""Counts on a terminal."""

import sys
from collections.abc import Callable


def terminal_count(label: str) -> Callable[[int, int], None] | None:
    """A line on standard error that shows a count, or None when that is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{label}: {done} of {total}", end=end, file=sys.stderr, flush=True)

    return show
