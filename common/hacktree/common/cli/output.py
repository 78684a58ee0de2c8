"""What commands print: text for people on a terminal, JSON for programs.

A farm, a package or a file's name may hold what would steer the terminal: nothing leaves here
without `display_text`. Tabs and ends of lines stay; who puts foreign text into one line of several
escapes that text first.
"""

import argparse
import json
import sys
from collections.abc import Callable

from hacktree.common.objects.moments import display_time
from hacktree.common.objects.names import display_text

_LAYOUT = "\t\n"


def show(text: str, *, end: str = "\n") -> None:
    """What was asked for, on standard output; what does not end a line is there at once."""
    print(display_text(text, keep=_LAYOUT), end=end, flush=not end)


def emit_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json_text(value, indent=2))


def emit_event(value: object) -> None:
    """One JSON document in a line on standard output, at once: more may follow, much later."""
    print(json_text(value), flush=True)


def json_text(value: object, indent: int | None = None) -> str:
    """`value` as JSON that is read as it was, and prints on a terminal: the rest is escaped."""
    return printable_json(json.dumps(value, ensure_ascii=False, indent=indent))


def printable_json(text: str) -> str:
    """A JSON document that is text already, as `json_text` has it."""
    if text.isprintable():
        return text
    # Such a character stands in a string; but for the ends of lines, which in strings are escaped.
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def say(args: argparse.Namespace, text: str) -> None:
    """A line for a person on standard output, unless --quiet or --json."""
    if not args.quiet and not args.json:
        show(text)


def tell(text: str) -> None:
    """A line on standard error, where standard output is a program's."""
    print(display_text(text, keep=_LAYOUT), file=sys.stderr)


def rewrite(text: str, *, ends: bool) -> None:
    """A line of progress on standard error, a terminal, in place of the one before; `ends`: the
    last one.
    """
    print(f"\r{display_text(text)}", end="\n" if ends else "", file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A warning on standard error."""
    complain(f"warning: {text}")


def complain(text: str, hint: str = "") -> None:
    """What is wrong or in the way, on standard error; of several lines the others are indented."""
    lines = display_text(text, keep=_LAYOUT).replace("\n", "\n  ")
    print(f"hacktree: {lines}", file=sys.stderr)
    if hint:
        lines = display_text(hint, keep=_LAYOUT).replace("\n", "\n  ")
        print(f"  {lines}", file=sys.stderr)


def format_time(seconds: int) -> str:
    """UTC date and time: '2026-11-23 09:34 UTC'."""
    return display_time(seconds)


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
        rewrite(f"{label}: {done / 1e6:.0f}{share} MB", ends=0 < total <= done)

    return show
