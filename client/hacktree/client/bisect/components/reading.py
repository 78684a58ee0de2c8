"""Reading a build's package database out of its tree: which packages, and whose each path is.

The tree is as untrusted as whoever built it: everything is bounded, nothing of it is run.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from hacktree.client.bisect.components.dpkg import compare_versions, list_paths, parse_status
from hacktree.client.bisect.components.installed import Installed, PackageSet
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.errors import UserError
from hacktree.common.objects.commit import MAX_ENTRIES
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import MAX_DPKG_STATUS_SIZE
from hacktree.common.objects.tree import DirectoryEntry, FileEntry
from hacktree.common.repository.packages import DPKG_DATABASES

_LISTING: Final = re.compile(rb"([a-z0-9][a-z0-9+.-]*)(?::[a-z0-9-]+)?\.list")
_MAX_LISTING: Final = 64 << 20


class NoPackagesError(UserError):
    """The tree doesn't say which packages it is made of, or whose its files are."""


@dataclass(frozen=True, slots=True)
class Database:
    """A build's packages. `status`: the file that says what is installed; `info`: the directory of
    what dpkg keeps for each package, with a '/' at the end.
    """

    packages: PackageSet
    status: bytes
    info: bytes


def read_database(view: TreeView, name: str) -> Database:
    """The packages of the build called `name`; raises `NoPackagesError`, `FormatError`."""
    for directory in DPKG_DATABASES:
        data = view.read(directory + b"/status", MAX_DPKG_STATUS_SIZE)
        found = list(parse_status(data)) if data is not None else []
        if not found:
            continue
        owners = _owners(view, directory + b"/info")
        if not owners:
            raise NoPackagesError(
                f"the packages of {name} are known, their files are not: there is no list in "
                f"/{directory.decode()}/info",
                hint="Keep dpkg's *.list files in the builds.",
            )
        packages = PackageSet(
            tuple(package for package, _ in found), owners, compare_versions, _stanzas(found)
        )
        status, info = (view.resolve(directory + part)[0] for part in (b"/status", b"/info"))
        return Database(packages, status, info + b"/")
    raise NoPackagesError(
        f"{name} has no dpkg database, so its packages can't be told apart",
        hint="Mixed roots need it; `hacktree bisect start` finds the build.",
    )


def _stanzas(found: Iterable[tuple[Installed, bytes]]) -> dict[str, bytes]:
    joined: dict[str, list[bytes]] = defaultdict(list)
    for package, stanza in found:
        joined[package.name].append(stanza)
    return {name: b"\n\n".join(stanzas) for name, stanzas in joined.items()}


def _owners(view: TreeView, info: bytes) -> dict[bytes, tuple[str, ...]]:
    """Who lists which path, in the spelling that the tree has: /lib may lead to /usr/lib."""
    owners: dict[bytes, tuple[str, ...]] = {}
    places: dict[bytes, bytes] = {}
    for name, paths in list_files(view, info):
        for path in paths:
            above, slash, last = path.rpartition(b"/")
            if above not in places:
                places[above] = view.resolve(above)[0]
            place = _join(places[above], last) if slash else path
            known = owners.get(place, ())
            if name not in known:
                owners[place] = (*known, name)
        if len(owners) > MAX_ENTRIES:
            raise FormatError(f"dpkg's lists name more than {MAX_ENTRIES} paths")
    return owners


def list_files(view: TreeView, info: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Yield each package and the paths that it lists, of dpkg's directory `info` in a tree.

    A list may spell a path otherwise than the tree does, /lib for /usr/lib. Raises `FormatError`.
    """
    directory = view.resolve(info)[1]
    if not isinstance(directory, DirectoryEntry):
        return
    for entry in view.repository.load_tree(directory.id).entries:
        match = _LISTING.fullmatch(entry.name)
        if match is None or not isinstance(entry, FileEntry):
            continue
        if entry.size > _MAX_LISTING:
            raise FormatError(f"dpkg's list {entry.name.decode()} is larger than {_MAX_LISTING}")
        yield match[1].decode(), list_paths(b"".join(view.repository.read_content(entry)))


def _join(above: bytes, name: bytes) -> bytes:
    return b"/".join((above, name)) if above else name
