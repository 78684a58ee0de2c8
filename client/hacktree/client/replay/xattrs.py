"""Extended attributes of upper layers, and the attributes of directories.

What the overlay notes on its own files is `trusted.overlay.*`, in a user namespace
`user.overlay.*`. docs/architecture-deploy.md, "Replay".
"""

import errno
import os
import stat
from pathlib import Path
from typing import Final

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OVERLAY_PREFIXES: Final = ("trusted.overlay.", "user.overlay.")

Xattrs = dict[str, bytes]


def read_xattrs(place: int | str | Path) -> Xattrs:
    """All of a file, those of the overlay too. A path is not followed if it is a link."""
    follow = isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
    return {name: os.getxattr(place, name, follow_symlinks=follow) for name in names}


def is_overlay(name: str) -> bool:
    """Whether the attribute is the overlay's own."""
    return name.startswith(OVERLAY_PREFIXES)


def overlay_xattr(found: Xattrs, name: str) -> bytes | None:
    """The overlay's attribute `name`, as `opaque`."""
    return next(
        (found[prefix + name] for prefix in OVERLAY_PREFIXES if prefix + name in found), None
    )


def apply_directory_attributes(source: int, target: int) -> None:
    """Give the directory `target` the owner, mode, attributes and mtime of `source`; both open."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    wanted = {name: value for name, value in read_xattrs(source).items() if not is_overlay(name)}
    present = read_xattrs(target)
    for name in present:
        if name not in wanted and not is_overlay(name):
            os.removexattr(target, name)
    for name, value in wanted.items():
        if present.get(name) != value:
            os.setxattr(target, name, value)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def copy_directory_attributes(source: Path, target: Path) -> None:
    """`apply_directory_attributes` by path."""
    opened = os.open(source, OPEN_DIRECTORY)
    try:
        other = os.open(target, OPEN_DIRECTORY)
        try:
            apply_directory_attributes(opened, other)
        finally:
            os.close(other)
    finally:
        os.close(opened)
