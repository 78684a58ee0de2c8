"""What changed between the last good build and the first bad one. Pure.

Whose a file is comes from the package databases of the builds (`Owners`), where they have one that
can be read. Every text is what the farm wrote: who shows it escapes it.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import msgspec

from hacktree.common.objects.commit import Commit, MetadataValue
from hacktree.common.objects.diff import Change, diff_trees
from hacktree.common.objects.names import display_path
from hacktree.common.objects.packages import (
    METADATA_KEY,
    Package,
    PackageDiff,
    diff_package_metadata,
)
from hacktree.common.objects.tree import Entry, FileEntry
from hacktree.common.objects.walk import LoadTree

Owners = Mapping[bytes, tuple[str, ...]]
"""Names of the packages that list a path (b"usr/bin/env")."""

ReadOwners = Callable[[frozenset[bytes]], tuple[Owners, Owners] | None]
"""Of these paths the owners in the old build and in the new one; None where that is not known."""


class FileChange(msgspec.Struct, frozen=True):
    """A path ("/usr/bin/env") that differs; `letter` as in `Change`.

    Sizes are bytes of a file, None where there is none. `packages`: who lists it; empty for nobody,
    or if that is not known.
    """

    path: str
    letter: str
    old_size: int | None
    new_size: int | None
    packages: tuple[str, ...]


class MetadataChange(msgspec.Struct, frozen=True):
    """A word of a commit's metadata, such as a source revision; None where it isn't there."""

    name: str
    old: str | None
    new: str | None


class Difference(msgspec.Struct, frozen=True):
    """What `new` changes against `old`.

    `patterns`: what it was narrowed to; `other_files` and `other_packages` were left out for it.
    `packages` is None unless both builds list theirs. `owned`: whether packages' files are known.
    `old_bytes` and `new_bytes`: contents of all files, by path; `content`: of those that are new.
    """

    files: tuple[FileChange, ...]
    packages: PackageDiff | None
    metadata: tuple[MetadataChange, ...]
    old_bytes: int
    new_bytes: int
    content: int
    owned: bool
    patterns: tuple[str, ...] = ()
    other_files: int = 0
    other_packages: int = 0


class Group(msgspec.Struct, frozen=True):
    """Files that changed of one package; `name` is empty for those of no package.

    `change` says what became of the package, empty if its version is the same: files that changed
    nevertheless are worth a look.
    """

    name: str
    change: str
    files: tuple[FileChange, ...]


class Narrowing(msgspec.Struct, frozen=True):
    """Patterns as they were given, and whether one of them matches a path."""

    patterns: tuple[str, ...]
    matches: Callable[[bytes], bool]


def compare_commits(
    load: LoadTree,
    old: Commit,
    new: Commit,
    read_owners: ReadOwners,
    narrowing: Narrowing | None = None,
) -> Difference:
    """Compare two commits whose trees are here.

    With `narrowing` only files that match count, and packages that own one of them; all packages
    where owners are not known. Raises what `load` and `read_owners` raise.
    """
    changes = list(diff_trees(load, old.root.id, new.root.id))
    kept = [one for one in changes if narrowing is None or narrowing.matches(one.path)]
    owners = read_owners(frozenset(change.path for change in kept))
    files = tuple(_describe(change, owners) for change in kept)
    packages = diff_package_metadata(old.metadata, new.metadata)
    other_packages = 0
    if packages is not None and narrowing is not None and owners is not None:
        every = _count(packages)
        packages = _narrow(packages, {name for file in files for name in file.packages})
        other_packages = every - _count(packages)
    return Difference(
        files,
        packages,
        _compare_metadata(old, new),
        old.totals.bytes,
        new.totals.bytes,
        sum(one.new.size for one in kept if one.is_content and isinstance(one.new, FileEntry)),
        owned=owners is not None,
        patterns=() if narrowing is None else narrowing.patterns,
        other_files=len(changes) - len(kept),
        other_packages=other_packages,
    )


def group_by_package(difference: Difference) -> tuple[Group, ...]:
    """The files by package: packages that changed first, each sort by name, those of none last.

    A file that several packages list stands in each of them.
    """
    files: dict[str, list[FileChange]] = defaultdict(list)
    for file in difference.files:
        for name in file.packages or ("",):
            files[name].append(file)
    changes = describe_packages(difference.packages)
    groups = [Group(name, changes.get(name, ""), tuple(some)) for name, some in files.items()]
    return tuple(sorted(groups, key=lambda one: (not one.name, not one.change, one.name)))


def collapse(files: Sequence[FileChange]) -> list[tuple[FileChange, int]]:
    """The files but for those below a directory that came or went as a whole: those are counted.

    `files` in the order of `Difference`: a directory before what it holds.
    """
    found: list[tuple[FileChange, int]] = []
    for file in files:
        if found and file.letter in "AD":
            above, below = found[-1]
            if file.letter == above.letter and file.path.startswith(above.path + "/"):
                found[-1] = (above, below + 1)
                continue
        found.append((file, 0))
    return found


def describe_packages(packages: PackageDiff | None) -> dict[str, str]:
    """What became of each package that changed, by name: '24.1 → 24.2'; sorted by name."""
    found: dict[str, list[str]] = defaultdict(list)
    if packages is not None:
        for before, after in packages.changed:
            architecture = (
                f" ({before.architecture} → {after.architecture})"
                if before.architecture != after.architecture
                else ""
            )
            found[before.name].append(f"{before.version} → {after.version}{architecture}")
        for package in packages.removed:
            found[package.name].append(f"{package.version} removed")
        for package in packages.added:
            found[package.name].append(f"{package.version} added")
    return {name: ", ".join(dict.fromkeys(found[name])) for name in sorted(found)}


def metadata_text(value: MetadataValue) -> str:
    """A value of a commit's metadata in one text."""
    if isinstance(value, list):
        return ", ".join(one if isinstance(one, str) else " ".join(one) for one in value)
    return str(value)


def _describe(change: Change, owners: tuple[Owners, Owners] | None) -> FileChange:
    packages: tuple[str, ...] = ()
    if owners is not None:
        before, after = owners
        packages = after.get(change.path, ()) if change.new is not None else ()
        packages = packages or before.get(change.path, ())
    return FileChange(
        "/" + display_path(change.path),
        change.letter,
        _size(change.old),
        _size(change.new),
        packages,
    )


def _size(entry: Entry | None) -> int | None:
    return entry.size if isinstance(entry, FileEntry) else None


def _compare_metadata(old: Commit, new: Commit) -> tuple[MetadataChange, ...]:
    found = []
    for name in sorted((old.metadata.keys() | new.metadata.keys()) - {METADATA_KEY}):
        before, after = (
            metadata_text(commit.metadata[name]) if name in commit.metadata else None
            for commit in (old, new)
        )
        if before != after:
            found.append(MetadataChange(name, before, after))
    return tuple(found)


def _narrow(packages: PackageDiff, names: set[str]) -> PackageDiff:
    def kept(some: Sequence[Package]) -> tuple[Package, ...]:
        return tuple(package for package in some if package.name in names)

    return PackageDiff(
        kept(packages.added),
        kept(packages.removed),
        tuple(pair for pair in packages.changed if pair[0].name in names),
    )


def _count(packages: PackageDiff) -> int:
    return len(packages.added) + len(packages.removed) + len(packages.changed)
