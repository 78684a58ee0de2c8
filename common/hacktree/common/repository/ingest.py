"""What every way of bringing a tree into a repository shares: its options and its report."""

import fnmatch
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.attributes import Xattrs, is_versioned_xattr
from hacktree.common.objects.names import display_path
from hacktree.common.objects.tree import Entry, SymlinkEntry
from hacktree.common.repository.content import FileAttributes
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import user_mode

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all); in all is 0 while it is unknown."""


class SpecialFileError(UserError):
    """The tree holds a device node, socket or FIFO, and `--strict` refuses them."""


class IngestOptions(msgspec.Struct, frozen=True):
    """How a tree is read. `owner_uid`, `owner_gid` replace every owner; `skip` is a set of globs.

    `base` finds the entry of a path in the previous commit: in bare-user mode owners and special
    bits come from there, since the disk can't hold them.
    """

    owner_uid: int | None = None
    owner_gid: int | None = None
    skip: tuple[bytes, ...] = ()
    strict: bool = False
    jobs: int = msgspec.field(default_factory=lambda: os.cpu_count() or 1)
    base: Callable[[bytes], Entry | None] | None = None


class IngestReport(msgspec.Struct):
    """What a person should know of how the tree was read."""

    special_files: list[bytes] = []
    notices: list[str] = []
    skipped: int = 0
    pyc_rewritten: int = 0
    pyc_dropped: int = 0
    files_read: int = 0
    bytes_read: int = 0
    files_cached: int = 0

    def warnings(self) -> list[str]:
        """One line for each kind of thing that is not in the commit as it was on disk."""
        lines = list(self.notices)
        if self.special_files:
            shown = ", ".join("/" + display_path(path) for path in self.special_files[:3])
            more = f" and {len(self.special_files) - 3} more" if len(self.special_files) > 3 else ""
            lines.append(f"devices, sockets and FIFOs are not versioned: {shown}{more}")
        if self.pyc_rewritten or self.pyc_dropped:
            lines.append(
                f"{self.pyc_rewritten} .pyc files no longer depend on their source's mtime, "
                f"{self.pyc_dropped} stale ones were dropped"
            )
        return lines


def special_file(report: IngestReport, options: IngestOptions, path: bytes) -> None:
    """Note a file that can't be versioned; raises `SpecialFileError` when strict."""
    if options.strict:
        raise SpecialFileError(
            f"/{display_path(path)} is a device node, socket or FIFO",
            hint="Remove it, or commit without --strict to leave such files out.",
        )
    report.special_files.append(path)


def compile_skip(patterns: Iterable[bytes]) -> Callable[[bytes], bool]:
    """Whether a path is to be left out: shell globs on the path relative to the tree's root."""
    expressions = [
        fnmatch.translate(pattern.strip(b"/").decode("latin-1")) for pattern in patterns if pattern
    ]
    if not expressions:
        return lambda path: False
    regex = re.compile("|".join(expressions))
    return lambda path: regex.fullmatch(path.decode("latin-1")) is not None


def read_skip_list(path: Path) -> tuple[bytes, ...]:
    """One glob a line; empty lines and lines that begin with '#' are ignored."""
    lines = path.read_bytes().splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith(b"#"))


def decide_attributes(
    options: IngestOptions, mode: Mode, path: bytes, found: FileAttributes
) -> FileAttributes:
    """The attributes to version for an entry that the disk or the archive shows as `found`."""
    uid, gid, bits, xattrs = found.uid, found.gid, found.mode, found.xattrs
    if mode is Mode.BARE_USER:
        uid, gid = (
            _user_mode_owner(uid, os.getuid()),
            _user_mode_owner(gid, os.getgid()),
        )
        base = options.base(path) if options.base is not None else None
        if base is not None:
            uid, gid = base.uid, base.gid
            if not isinstance(base, SymlinkEntry) and user_mode(base.mode) == user_mode(bits):
                bits, xattrs = base.mode, base.xattrs
    if options.owner_uid is not None:
        uid = options.owner_uid
    if options.owner_gid is not None:
        gid = options.owner_gid
    return FileAttributes(bits, uid, gid, xattrs)


def _user_mode_owner(number: int, mine: int) -> int:
    """A person without root owns everything on disk; in the tree root does."""
    return 0 if number == mine else number


def select_xattrs(pairs: Iterable[tuple[str, bytes]]) -> Xattrs:
    """The versioned ones of a file's extended attributes, in canonical order."""
    return tuple(sorted((name, value) for name, value in pairs if is_versioned_xattr(name)))
