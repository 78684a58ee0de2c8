"""Times of commits, for a person."""

from datetime import UTC, datetime
from typing import Final

_END: Final = 253_402_300_800
"""The year 10000, where calendars of programs end; a commit may claim to be later."""


def display_day(seconds: int) -> str:
    """UTC date of seconds since 1970: '2026-11-23'."""
    text = display_time(seconds)
    return text.partition(" ")[0] if text.endswith("UTC") else text


def machine_time(seconds: int) -> str:
    """UTC date and time of seconds since 1970 for programs, which know years up to 9999."""
    moment = datetime.fromtimestamp(min(max(seconds, 0), _END - 1), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def display_time(seconds: int) -> str:
    """UTC date and time of seconds since 1970: '2026-11-23 09:34 UTC'."""
    if not 0 <= seconds < _END:
        return f"{seconds} s after 1970"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
