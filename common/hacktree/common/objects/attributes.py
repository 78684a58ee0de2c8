"""Extended attributes that are versioned, and the permission bits of a mode."""

from typing import Annotated, Final

from msgspec import Meta

from hacktree.common.objects.errors import FormatError

Mode = Annotated[int, Meta(ge=0, le=0o7777)]
"""Permission bits including setuid, setgid and sticky; never the file type."""

OwnerId = Annotated[int, Meta(ge=0, le=2**32 - 2)]
"""A uid or gid; 2**32 - 1 means "unchanged" to chown(2) and is no owner."""

MAX_XATTRS: Final = 64
MAX_XATTR_NAME: Final = 255
"""Bytes: the limit of Linux (XATTR_NAME_MAX)."""
MAX_XATTR_VALUE: Final = 65536
"""Bytes: the limit of Linux (XATTR_SIZE_MAX)."""

Xattrs = Annotated[tuple[tuple[str, bytes], ...], Meta(max_length=MAX_XATTRS)]
"""(name, value) pairs sorted by name; a decoder refuses too many before it makes the first."""

_ALLOWED: Final = frozenset(
    {"security.capability", "system.posix_acl_access", "system.posix_acl_default"}
)


def is_versioned_xattr(name: str) -> bool:
    """Whether the attribute is part of a tree.

    Capabilities, POSIX ACLs and `user.*` are. Labels (SELinux) belong to a machine's policy, and
    `*.overlay.*` would be obeyed by an overlay mounted over the checkout. Nor is a name that is not
    UTF-8 (which Python shows with lone surrogates): names are text in a tree.
    """
    if not name.startswith("user.") or name.startswith("user.overlay."):
        return name in _ALLOWED
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return False
    return len("user.") < length <= MAX_XATTR_NAME and "\0" not in name


def check_xattrs(xattrs: Xattrs) -> None:
    """Raise `FormatError` unless sorted, unique, allowed and within the limits."""
    if len(xattrs) > MAX_XATTRS:
        raise FormatError(f"more than {MAX_XATTRS} extended attributes on one entry")
    previous = ""
    for name, value in xattrs:
        if name <= previous:
            raise FormatError("extended attributes are not in strictly ascending order")
        if not is_versioned_xattr(name):
            raise FormatError(f"extended attribute {name[:80]!r} is not versioned")
        if len(value) > MAX_XATTR_VALUE:
            raise FormatError(f"extended attribute {name!r} exceeds {MAX_XATTR_VALUE} bytes")
        previous = name
