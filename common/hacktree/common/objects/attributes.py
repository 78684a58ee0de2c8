"""Extended attributes that are versioned, and the permission bits of a mode."""

from typing import Annotated, Final

from hacktree.common.objects.errors import FormatError
from msgspec import Meta

Xattrs = tuple[tuple[str, bytes], ...]
"""(name, value) pairs sorted by name."""

Mode = Annotated[int, Meta(ge=0, le=0o7777)]
"""Permission bits including setuid, setgid and sticky; never the file type."""

OwnerId = Annotated[int, Meta(ge=0, le=2**32 - 2)]
"""A uid or gid; 2**32 - 1 means "unchanged" to chown(2) and is no owner."""

MAX_XATTRS: Final = 64
MAX_XATTR_VALUE: Final = 65536
"""Bytes: the limit of Linux (XATTR_SIZE_MAX)."""


_ALLOWED: Final = frozenset(
    {"security.capability", "system.posix_acl_access", "system.posix_acl_default"}
)


def is_versioned_xattr(name: str) -> bool:
    """Whether the attribute is part of a tree.

    Capabilities, POSIX ACLs and `user.*` are. Labels (SELinux) belong to a machine's policy, and
    `*.overlay.*` would be obeyed by an overlay mounted over the checkout.
    """
    return name in _ALLOWED or (
        name.startswith("user.") and not name.startswith("user.overlay.") and 5 < len(name) <= 255
    )


def check_xattrs(xattrs: Xattrs) -> None:
    """Raise `FormatError` unless sorted, unique, allowed and within the limits."""
    if len(xattrs) > MAX_XATTRS:
        raise FormatError(f"more than {MAX_XATTRS} extended attributes on one entry")
    previous = ""
    for name, value in xattrs:
        if name <= previous:
            raise FormatError("extended attributes are not in strictly ascending order")
        if not is_versioned_xattr(name) or "\0" in name or len(name.encode()) > 255:
            raise FormatError(f"extended attribute {name[:80]!r} is not versioned")
        if len(value) > MAX_XATTR_VALUE:
            raise FormatError(f"extended attribute {name!r} exceeds {MAX_XATTR_VALUE} bytes")
        previous = name
