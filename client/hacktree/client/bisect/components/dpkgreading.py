"""Reading dpkg's database out of a tree: its status, and the packages' lists of files."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from hacktree.client.bisect.components.database import Database, NoPackagesError, spell_owners
from hacktree.client.bisect.components.dpkg import fits, list_paths, parse_status
from hacktree.client.bisect.components.installed import Installed, PackageSet
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import MAX_DPKG_STATUS_SIZE, Package, parse_dpkg_status
from hacktree.common.objects.tree import DirectoryEntry, FileEntry
from hacktree.common.repository.packages import DPKG_DATABASES

_LISTING: Final = re.compile(rb"([a-z0-9][a-z0-9+.-]*)(?::[a-z0-9-]+)?\.list")
_MAX_LISTING: Final = 64 << 20


class DpkgForm(msgspec.Struct, frozen=True):
    """A status file of stanzas, and a directory of what dpkg keeps for each package."""

    path: bytes
    info: bytes

    @property
    def caveat(self) -> str:
        """As `Form.caveat`."""
        return ""

    def covers(self, path: bytes) -> bool:
        """As `Form.covers`: what is kept for a package comes with it."""
        return path == self.path

    def join(self, parts: Sequence[bytes]) -> bytes:
        """As `Form.join`."""
        return b"\n\n".join(parts) + b"\n\n"

    def list_packages(self, joined: bytes) -> tuple[Package, ...]:
        """As `Form.list_packages`."""
        return parse_dpkg_status(joined)

    def write(self, joined: bytes) -> Mapping[bytes, bytes]:
        """As `Form.write`."""
        return {self.path: joined}


def read_dpkg(view: TreeView, name: str) -> Database | None:
    """The packages of the build called `name`; None if dpkg installed none there.

    Raises `NoPackagesError`, `FormatError`.
    """
    for directory in DPKG_DATABASES:
        data = view.read(directory + b"/status", MAX_DPKG_STATUS_SIZE)
        found = list(parse_status(data)) if data is not None else []
        if not found:
            continue
        owners = spell_owners(view, list_files(view, directory + b"/info"))
        if not owners:
            raise NoPackagesError(
                f"the packages of {name} are known, their files are not: there is no list in "
                f"/{directory.decode()}/info",
                hint="Keep dpkg's *.list files in the builds.",
            )
        packages = PackageSet(tuple(package for package, _ in found), owners, fits, _parts(found))
        status, info = (view.resolve(directory + part)[0] for part in (b"/status", b"/info"))
        return Database(packages, DpkgForm(status, info + b"/"))
    return None


def _parts(found: Iterable[tuple[Installed, bytes]]) -> dict[str, bytes]:
    joined: dict[str, list[bytes]] = defaultdict(list)
    for package, stanza in found:
        joined[package.name].append(stanza)
    return {name: b"\n\n".join(stanzas) for name, stanzas in joined.items()}


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
