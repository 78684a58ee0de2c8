"""What a conditional or partial GET asks for: RFC 9110 sections 13 and 14 as a pure decision.

Where the RFC leaves a choice, this does what nginx does, so that a client meets one behaviour: a
validator is the mtime in whole seconds and the size, `If-Range` with a date must be equal, and a
request for several ranges gets the whole (nginx: `max_ranges 1`). A Range that does not parse is
ignored, as the RFC says; nginx answers 416.
"""

import re
from email.utils import formatdate, mktime_tz, parsedate_tz
from functools import lru_cache
from typing import Final

import msgspec


class Conditions(msgspec.Struct, frozen=True):
    """The request's conditional headers, each joined with ', ' where repeated; None if absent."""

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None
    if_unmodified_since: str | None = None
    if_range: str | None = None
    range: str | None = None


class Validators(msgspec.Struct, frozen=True):
    """What identifies one version of a file to HTTP: mtime in whole seconds, size in bytes."""

    mtime: int
    size: int

    @property
    def etag(self) -> str:
        """The strong entity tag, quoted; nginx's formula, so that both servers agree."""
        return f'"{self.mtime:x}-{self.size:x}"'

    @property
    def last_modified(self) -> str:
        """The mtime as an HTTP date."""
        return _http_date(self.mtime)


class Whole(msgspec.Struct, frozen=True):
    """Answer 200 with everything."""


class Part(msgspec.Struct, frozen=True):
    """Answer 206 with the bytes from `start` up to, not including, `stop`; start < stop <= size."""

    start: int
    stop: int


class NotModified(msgspec.Struct, frozen=True):
    """Answer 304."""


class PreconditionFailed(msgspec.Struct, frozen=True):
    """Answer 412."""


class Unsatisfiable(msgspec.Struct, frozen=True):
    """Answer 416."""


Decision = Whole | Part | NotModified | PreconditionFailed | Unsatisfiable

UNCONDITIONAL: Final = Conditions()

_ENTITY_TAG: Final = re.compile(r'(?:W/)?"[!\x23-\x7e\x80-\xff]*"')
# 18 digits: more than any file has bytes, fewer than int() takes its time over.
_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)


def decide(conditions: Conditions, validators: Validators) -> Decision:
    """The answer to a GET, in the order of precedence of RFC 9110 section 13.2.2."""
    if not _still_the_expected_one(conditions, validators):
        return PreconditionFailed()
    if _already_held(conditions, validators):
        return NotModified()
    if conditions.range is None or not _range_applies(conditions.if_range, validators):
        return Whole()
    return _parse_range(conditions.range, validators.size)


def _still_the_expected_one(conditions: Conditions, validators: Validators) -> bool:
    if conditions.if_match is not None:
        return _names(conditions.if_match, validators.etag, weakly=False)
    if conditions.if_unmodified_since is not None:
        limit = _parse_date(conditions.if_unmodified_since)
        return limit is None or validators.mtime <= limit
    return True


def _already_held(conditions: Conditions, validators: Validators) -> bool:
    if conditions.if_none_match is not None:
        return _names(conditions.if_none_match, validators.etag, weakly=True)
    if conditions.if_modified_since is not None:
        held = _parse_date(conditions.if_modified_since)
        return held is not None and validators.mtime <= held
    return False


def _range_applies(if_range: str | None, validators: Validators) -> bool:
    """Whether the part that the client holds is of this version; if not, it gets the whole."""
    if if_range is None:
        return True
    if '"' in if_range:
        return if_range.strip() == validators.etag
    return _parse_date(if_range) == validators.mtime


def _names(field: str, etag: str, *, weakly: bool) -> bool:
    if field.strip() == "*":
        return True
    listed = set(_ENTITY_TAG.findall(field))
    return etag in listed or (weakly and f"W/{etag}" in listed)


def _parse_range(field: str, size: int) -> Whole | Part | Unsatisfiable:
    match = _RANGE.fullmatch(field.strip())
    if match is None or match[1] == match[2] == "":
        return Whole()
    if match[1] == "":
        suffix = int(match[2])
        return Part(max(0, size - suffix), size) if suffix and size else Unsatisfiable()
    start = int(match[1])
    last = int(match[2]) if match[2] else size - 1
    if match[2] and last < start:
        return Whole()
    return Part(start, min(last + 1, size)) if start < size else Unsatisfiable()


def _parse_date(text: str) -> int | None:
    """Seconds since 1970 of an HTTP date in any of its three spellings; None if it is none."""
    try:
        fields = parsedate_tz(text)
        # "GMT" is implied where asctime's format names no zone.
        return None if fields is None else int(mktime_tz((*fields[:9], fields[9] or 0)))
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=1024)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)
