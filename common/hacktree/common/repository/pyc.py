"""Compiled Python files, whose validity normally hangs on the mtime of their source.

A checkout gives every file the same mtime, so a `.pyc` that validates by mtime would be ignored on
every start, or worse, match a changed source of the same size and run stale code. Commit turns a
valid one into an unchecked hash-based pyc (PEP 552), which Python trusts as it is, and drops one
that is stale already.
"""

import enum
from typing import Final

_HEADER: Final = 16
_UNCHECKED_HASH: Final = (1).to_bytes(4, "little")


class PycVerdict(enum.Enum):
    """What commit does with a `.pyc` file."""

    KEEP = "kept"
    REWRITE = "rewritten"
    DROP = "dropped"


def source_path(path: bytes) -> bytes | None:
    """The source that `…/__pycache__/name.tag.pyc` was compiled from; None for any other path."""
    directory, _, name = path.rpartition(b"/")
    parent, _, cache = directory.rpartition(b"/")
    if cache != b"__pycache__" or not name.endswith(b".pyc"):
        return None
    source = name.split(b".", 1)[0] + b".py"
    return parent + b"/" + source if parent else source


def judge_pyc(data: bytes, source_mtime: int | None, source_size: int | None) -> PycVerdict:
    """What to do with a pyc, given its source's mtime (seconds) and size, None if it has none."""
    if len(data) < _HEADER or data[4:8] != b"\0\0\0\0":
        return PycVerdict.KEEP
    if source_mtime is None or source_size is None:
        return PycVerdict.KEEP
    recorded = data[8:16]
    expected = (source_mtime & 0xFFFFFFFF).to_bytes(4, "little") + (
        source_size & 0xFFFFFFFF
    ).to_bytes(4, "little")
    return PycVerdict.REWRITE if recorded == expected else PycVerdict.DROP


def to_unchecked_hash(data: bytes) -> bytes:
    """The same code with a header that is never checked against a source."""
    return data[:4] + _UNCHECKED_HASH + bytes(8) + data[_HEADER:]
