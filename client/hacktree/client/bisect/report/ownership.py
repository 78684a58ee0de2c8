"""Whose a path of a build is, from the dpkg or rpm database in its tree.

The tree is as untrusted as whoever built it: everything is bounded, nothing of it is run.
"""

from collections.abc import Collection, Iterator

from hacktree.client.bisect.components.database import spell_owners
from hacktree.client.bisect.components.dpkgreading import list_files
from hacktree.client.bisect.report.verdict import Owners
from hacktree.client.extensions.rpmheader import list_header_files
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.objects.packages import parse_rpm_header
from hacktree.common.objects.tree import FileEntry
from hacktree.common.repository.packages import DPKG_DATABASES, find_rpm_headers


def find_owners(view: TreeView, wanted: Collection[bytes]) -> Owners | None:
    """Who lists these paths of the tree; None if it has no database that names files.

    A list may spell a path otherwise than the tree does, /lib for /usr/lib. Raises `FormatError`
    for a damaged database, `UnreadablePackagesError` for one in a form that can't be read.
    """
    names = {_last(path) for path in wanted}
    listings = [
        (package, [path for path in paths if _last(path) in names])
        for package, paths in _listings(view)
    ]
    if not listings:
        return None
    owners = spell_owners(view, listings)
    return {path: owners[path] for path in wanted if path in owners}


def _last(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _listings(view: TreeView) -> Iterator[tuple[str, list[bytes]]]:
    """Yield each package and the paths that it lists, relative."""
    for directory in DPKG_DATABASES:
        if isinstance(view.resolve(directory + b"/status")[1], FileEntry):
            yield from list_files(view, directory + b"/info")
            break
    for header in find_rpm_headers(view.read) or ():
        yield parse_rpm_header(header).name, list_header_files(header)
