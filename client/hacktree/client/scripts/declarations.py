"""What a config script declares about itself: `# hacktree: network=yes limit=600` at its beginning.

A comment rather than a file beside it: the two can't part, and `cp` copies both.
"""

import re
from typing import Final

import msgspec

from hacktree.common.errors import UserError

DEFAULT_LIMIT: Final = 300
MAX_LIMIT: Final = 86_400

_LINES: Final = 30
_LINE_BYTES: Final = 1000
_HEADER: Final = re.compile(rb"#\s*hacktree:(.*)")
_NETWORK: Final = {"yes": True, "no": False}


class DeclarationError(UserError):
    """A script's declaration is not understood."""


class Declarations(msgspec.Struct, frozen=True):
    """`network`: whether the script may use it; `limit`: seconds after which it is killed."""

    network: bool = False
    limit: int = DEFAULT_LIMIT


def parse_declarations(content: bytes) -> Declarations:
    """The declarations in the first 30 lines, one or more to a line; a key counts once.

    Raises `DeclarationError` with the line's number.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(content.split(b"\n", _LINES)[:_LINES], 1):
        header = _HEADER.match(line[:_LINE_BYTES].strip())
        if header is None:
            continue
        for word in header[1].decode("ascii", "replace").split():
            key, _, value = word.partition("=")
            if key in found:
                raise DeclarationError(f"line {number}: {key} is declared twice")
            _check(number, key, value)
            found[key] = value
    return Declarations(
        _NETWORK[found.get("network", "no")], int(found.get("limit", str(DEFAULT_LIMIT)))
    )


def _check(number: int, key: str, value: str) -> None:
    if key == "network":
        if value not in _NETWORK:
            raise DeclarationError(f"line {number}: network={value}: it is yes or no")
    elif key == "limit":
        if not re.fullmatch(r"[1-9][0-9]{0,4}", value) or int(value) > MAX_LIMIT:
            raise DeclarationError(f"line {number}: limit={value}: seconds, 1 to {MAX_LIMIT}")
    else:
        raise DeclarationError(
            f"line {number}: there is no declaration {key!r}",
            hint="A script declares `# hacktree: network=yes limit=600`, either or both.",
        )
