"""Branch names and the names inside a tree."""

import re
from collections.abc import Iterable, Sequence
from operator import ge
from typing import Final, NewType

from hacktree.common.objects.errors import FormatError, NameInvalidError

BranchName = NewType("BranchName", str)
"""A validated branch name such as `fastqa` or `gnomeos/x86_64/builds`."""

MAX_BRANCH_LENGTH: Final = 200
MAX_NAME_LENGTH: Final = 255
"""Bytes in one name of a tree: the limit of Linux file systems."""
MAX_PATH_LENGTH: Final = 4095
"""Bytes in a path inside a tree: PATH_MAX less its terminator."""

RESERVED_COMPONENTS: Final = frozenset({"history", "tail", "current", "head", "remotes"})
"""Components that would collide with files of the published layout or with local refs."""

_COMPONENT = re.compile(r"[a-z0-9][a-z0-9._-]*")


def parse_branch_name(text: str) -> BranchName:
    """`text` as a branch name; raises `NameInvalidError` with the rule that it breaks."""
    if not 0 < len(text) <= MAX_BRANCH_LENGTH:
        raise NameInvalidError(f"a branch name has 1 to {MAX_BRANCH_LENGTH} characters")
    for component in text.split("/"):
        if not _COMPONENT.fullmatch(component):
            raise NameInvalidError(
                f"not a branch name: {text!r}",
                hint="Components joined by '/', each [a-z0-9] then any of [a-z0-9._-].",
            )
        if component in RESERVED_COMPONENTS:
            raise NameInvalidError(f"branch name {text!r}: {component!r} is reserved")
        if component.endswith((".lock", ".tmp")):
            raise NameInvalidError(f"branch name {text!r}: a component can't end like a temporary")
    return BranchName(text)


def branch_conflict(name: BranchName, existing: Iterable[str]) -> str | None:
    """The existing branch that `name` can't stand beside: one would be the other's directory."""
    for other in existing:
        if other.startswith(name + "/") or name.startswith(other + "/"):
            return other
    return None


def check_entry_names(names: Sequence[bytes]) -> None:
    """Refuse names that no directory may hold: `.`, `..`, '/', NUL, too long, unsorted, twice."""
    joined = b"\n".join(names)
    if b"/" in joined or b"\0" in joined:
        raise FormatError("a name in a tree contains '/' or NUL")
    if b"." in names or b".." in names:
        raise FormatError("a name in a tree is '.' or '..'")
    if any(map(ge, names, names[1:])):
        raise FormatError("the names in a tree are not in strictly ascending order")
    if names and not all(map(len, names)):
        raise FormatError("a name in a tree is empty")
    if names and max(map(len, names)) > MAX_NAME_LENGTH:
        raise FormatError(f"a name in a tree is longer than {MAX_NAME_LENGTH} bytes")


def display_path(path: bytes) -> str:
    """`path` for a person: UTF-8 where it is, bytes escaped where it is not or would not print."""
    return display_text(path.decode("utf-8", "backslashreplace"))


def display_text(text: str, keep: str = "") -> str:
    """What others wrote, for a person: all that would not print is escaped, but what is in `keep`.

    Escaped are control characters, which steer a terminal, marks that turn the direction of
    writing, invisible ones, and bytes of a name that were not UTF-8 (`surrogateescape`).
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )
