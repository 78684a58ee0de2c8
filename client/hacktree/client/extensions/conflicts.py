"""Files of packages that would overwrite the system's, or one another's: rpm does so silently."""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from hacktree.client.extensions.package import PackageFile, PackedFile
from hacktree.client.extensions.store import Extension
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.objects.names import display_path
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry, SymlinkEntry

Owned = Mapping[str, frozenset[bytes]]
"""By package name, the paths (relative) that the build's own version of it owns."""


class Conflict(msgspec.Struct, frozen=True):
    """A path (absolute) of a package, and why it may not be installed."""

    package: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} of {self.package} {self.reason}"


def find_conflicts(view: TreeView, extensions: Iterable[Extension], owned: Owned) -> list[Conflict]:
    """Every path that is in the build or in another package, and not the same there.

    What a package may replace (`Options.replace`), and what the build's own version of it owns,
    is none.
    """
    conflicts = []
    placed: dict[bytes, tuple[PackageFile, PackedFile]] = {}
    for extension in extensions:
        replaced = owned.get(extension.name, frozenset())
        for file in extension.package.files:
            path = view.place(file.path)
            shown = "/" + display_path(path)
            reason = _against_other(file, placed.get(path))
            if not reason and file.path not in replaced and path not in replaced:
                entry = view.find(path)
                if entry is not None and not extension.options.may_replace(shown[1:]):
                    reason = _against_tree(view, path, file, entry)
                    reason = reason or _against_directory(extension.package, file, entry)
            if reason:
                conflicts.append(Conflict(str(extension.package), shown, reason))
            placed.setdefault(path, (extension.package, file))
    return conflicts


def _against_other(file: PackedFile, other: tuple[PackageFile, PackedFile] | None) -> str:
    if other is None:
        return ""
    package, its = other
    both_known = (file.digest and its.digest) or not stat.S_ISREG(file.mode)
    same = (file.mode, file.digest) == (its.mode, its.digest) and both_known
    if (file.is_directory and its.is_directory) or (same and file.target == its.target):
        return ""
    return f"is in {package}, too"


def _against_tree(view: TreeView, path: bytes, file: PackedFile, entry: Entry) -> str:
    if file.is_directory:
        found = view.resolve(path)[1]
        if not isinstance(found, DirectoryEntry):
            return "is no directory in the build"
        return ""
    if isinstance(entry, DirectoryEntry):
        return "is a directory in the build"
    if isinstance(entry, SymlinkEntry):
        same = stat.S_ISLNK(file.mode) and file.target == entry.target
    else:
        same = _is_same_file(file, entry)
    return "" if same else "would overwrite the build's"


def _is_same_file(file: PackedFile, entry: FileEntry) -> bool:
    return (
        stat.S_ISREG(file.mode)
        and file.digest == bytes(entry.id)
        and stat.S_IMODE(file.mode) == stat.S_IMODE(entry.mode)
        and (file.owner == "root") == (entry.uid == 0)
    )


def _against_directory(package: PackageFile, file: PackedFile, entry: Entry) -> str:
    """rpm gives a directory that is there the package's mode and owner; dpkg leaves it alone."""
    if package.kind != "rpm" or not file.is_directory or not isinstance(entry, DirectoryEntry):
        return ""
    mode = stat.S_IMODE(entry.mode)
    if stat.S_IMODE(file.mode) != mode:
        return f"would get mode {stat.S_IMODE(file.mode):o} instead of {mode:o}"
    if (file.owner == "root") != (entry.uid == 0):
        return f"would belong to {file.owner}"
    return ""


def describe(conflicts: list[Conflict], *, most: int) -> Iterator[str]:
    """Lines for people, at most `most` and one that counts the rest."""
    yield from map(str, conflicts[:most])
    if len(conflicts) > most:
        yield f"and {len(conflicts) - most} more"


def paths_of(listing: str) -> frozenset[bytes]:
    """The absolute paths of a listing, one a line, as relative ones."""
    return frozenset(os.fsencode(line[1:]) for line in listing.splitlines() if line[:1] == "/")
