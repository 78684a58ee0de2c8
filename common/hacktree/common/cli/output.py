"""What commands print: text for people on a terminal, JSON for programs."""

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime


def emit_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def say(args: argparse.Namespace, text: str) -> None:
    """A line for a person on standard output, unless --quiet or --json."""
    if not args.quiet and not args.json:
        print(text)


def warn(text: str) -> None:
    """A warning on standard error."""
    print(f"hacktree: warning: {text}", file=sys.stderr)


def format_time(seconds: int) -> str:
    """UTC date and time: '2026-11-23 09:34 UTC'."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def terminal_progress(label: str) -> Callable[[int, int], None] | None:
    """A line on standard error that shows bytes done, or None when that is no terminal."""
    if not sys.stderr.isatty():
        return None
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        step = done >> 22
        if step == shown and done != total:
            return
        shown = step
        share = f" of {total / 1e6:.0f}" if total else ""
        end = "\n" if total and done >= total else ""
        print(
            f"\r{label}: {done / 1e6:.0f}{share} MB",
            end=end,
            file=sys.stderr,
            flush=True,
        )

    return show
