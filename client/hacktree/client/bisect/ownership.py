"""Whose a path of a build is, from the dpkg or rpm database in its tree.

The tree is as untrusted as whoever built it: everything is bounded, nothing of it is run.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Final

from hacktree.client.bisect.verdict import Owners
from hacktree.client.extensions.rpmfile import list_header_files
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.objects.packages import parse_rpm_header
from hacktree.common.objects.tree import DirectoryEntry, FileEntry
from hacktree.common.repository.packages import DPKG_DATABASES, find_rpm_database, rpm_headers

_LISTING: Final = re.compile(rb"([a-z0-9][a-z0-9+.-]*)(?::[a-z0-9-]+)?\.list")
_MAX_LISTING: Final = 64 << 20
"""Bytes of one package's list of files in dpkg's database."""


def find_owners(view: TreeView, wanted: Collection[bytes]) -> Owners | None:
    """Who lists these paths of the tree; None if it has no database that names files.

    A list may spell a path otherwise than the tree does, /lib for /usr/lib. Raises `FormatError`
    for a damaged database, `UnreadablePackagesError` for one in a form that can't be read.
    """
    names = {path.rpartition(b"/")[2] for path in wanted}
    owners: dict[bytes, dict[str, None]] = defaultdict(dict)
    places: dict[bytes, bytes] = {}
    found = False
    for package, paths in _listings(view):
        found = True
        for path in paths:
            above, slash, name = path.rpartition(b"/")
            if name not in names:
                continue
            if above not in places:
                places[above] = view.resolve(above)[0]
            place = b"/".join((places[above], name)) if slash and places[above] else name
            if place in wanted:
                owners[place][package] = None
    return {path: tuple(some) for path, some in owners.items()} if found else None


def _listings(view: TreeView) -> Iterator[tuple[str, list[bytes]]]:
    """Yield each package and the paths that it lists, relative."""
    yield from _dpkg_listings(view)
    database = find_rpm_database(view.read)
    if database is not None:
        for header in rpm_headers(database):
            yield parse_rpm_header(header).name, list_header_files(header)


def _dpkg_listings(view: TreeView) -> Iterator[tuple[str, list[bytes]]]:
    for database in DPKG_DATABASES:
        if not isinstance(view.resolve(database + b"/status")[1], FileEntry):
            continue
        info = view.resolve(database + b"/info")[1]
        if not isinstance(info, DirectoryEntry):
            return
        for entry in view.repository.load_tree(info.id).entries:
            match = _LISTING.fullmatch(entry.name)
            if match is None or not isinstance(entry, FileEntry) or entry.size > _MAX_LISTING:
                continue
            listing = b"".join(view.repository.read_content(entry))
            yield match[1].decode(), [line.strip(b"/") for line in listing.split(b"\n")]
        return
