"""Counts on a terminal."""

import sys
from collections.abc import Callable

from hacktree.common.cli.output import rewrite


def terminal_count(label: str) -> Callable[[int, int], None] | None:
    """A line on standard error that shows a count, or None when that is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        rewrite(f"{label}: {done} of {total}", ends=done >= total)

    return show
