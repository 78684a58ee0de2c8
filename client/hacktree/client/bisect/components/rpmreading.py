"""Reading rpm's database out of a tree: its headers say all, of files too.

A database in SQLite or ndb is read here, within bounds; one of Berkeley DB is copied out for rpmdb.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from hacktree.client.bisect.components.database import Database, NoPackagesError, spell_owners
from hacktree.client.bisect.components.installed import Installed, PackageSet
from hacktree.client.bisect.components.rpm import (
    fits,
    join_export,
    parse_installed,
    split_export,
)
from hacktree.client.bisect.components.rpmdb import (
    KINDS,
    SQLITE,
    can_write,
    read_headers,
    require_rpmdb,
    write_database,
)
from hacktree.client.extensions.rpmheader import list_header_files
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.errors import SystemFault
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.names import display_path
from hacktree.common.objects.packages import Package, parse_rpm_header
from hacktree.common.objects.tree import FileEntry
from hacktree.common.repository.packages import (
    MAX_RPM_DATABASE_SIZE,
    RPM_DATABASES,
    RPM_KEY,
    UnreadablePackagesError,
    find_rpm_database,
    packages_of_headers,
)

_SPOKEN: Final = {SQLITE: "SQLite", "ndb": "ndb", "bdb": "Berkeley DB"}


class RpmForm(msgspec.Struct, frozen=True):
    """A database of a kind in `directory`; `writable`: one can be made here."""

    directory: bytes
    kind: str
    writable: bool

    @property
    def path(self) -> bytes:
        """As `Form.path`."""
        return self.directory + b"/" + KINDS[self.kind]

    @property
    def info(self) -> bytes:
        """As `Form.info`: all is in the headers."""
        return b""

    @property
    def caveat(self) -> str:
        """As `Form.caveat`."""
        if self.writable:
            return ""
        return (
            f"rpm on this machine can't write {_SPOKEN[self.kind]}: whatever packages a root is "
            f"mixed of, its /{display_path(self.directory)} is the good build's"
        )

    def covers(self, path: bytes) -> bool:
        """As `Form.covers`: with indexes, logs and locks."""
        return path.startswith(self.directory + b"/")

    def join(self, parts: Sequence[bytes]) -> bytes:
        """As `Form.join`: what `rpmdb --importdb` reads."""
        return b"".join(parts)

    def list_packages(self, joined: bytes) -> tuple[Package, ...]:
        """As `Form.list_packages`."""
        return packages_of_headers(split_export(joined))

    def write(self, joined: bytes) -> Mapping[bytes, bytes]:
        """As `Form.write`."""
        return {self.path: write_database(self.kind, joined)} if self.writable else {}


def read_rpm_packages(view: TreeView, name: str) -> Database | None:
    """The packages of the build called `name`; None if it has no rpm database, or an empty one.

    Raises `NoPackagesError`; `FormatError` for a damaged database, `UnreadablePackagesError` for
    one that the host's rpm can't read; `ProgramMissingError`.
    """
    found = _locate(view)
    if found is None:
        return None
    directory, kind = found
    require_rpmdb(kind, name)
    headers: dict[str, list[bytes]] = defaultdict(list)
    for header in _read(view, directory, kind):
        headers[parse_rpm_header(header).name].append(header)
    packages = [header for name, some in headers.items() if name != RPM_KEY for header in some]
    if not packages:
        return None
    installed = [parse_installed(header) for header in packages]
    owners = spell_owners(
        view, zip((one.name for one in installed), map(list_header_files, packages), strict=True)
    )
    if not owners:
        raise NoPackagesError(f"the packages of {name} are known, but they list no files")
    # Keys are of no component, so a mixture has the good build's.
    parts = {name: join_export(some) for name, some in headers.items()}
    return Database(
        PackageSet(_provide_files(view, installed, owners), owners, fits, parts),
        RpmForm(directory, kind, can_write(kind)),
    )


def _locate(view: TreeView) -> tuple[bytes, str] | None:
    """The database's directory, without links in its path, and its kind."""
    for kind, name in KINDS.items():
        for directory in RPM_DATABASES:
            place = view.place(directory + b"/" + name)
            if isinstance(view.find(place), FileEntry):
                return place.rpartition(b"/")[0], kind
    return None


def _read(view: TreeView, directory: bytes, kind: str) -> list[bytes]:
    if kind == SQLITE:
        # Looks for a log with content, which would be part of the database.
        database = find_rpm_database(view.read)
    else:
        database = view.read(directory + b"/" + KINDS[kind], MAX_RPM_DATABASE_SIZE)
    if database is None:
        raise FormatError(f"it has more than {MAX_RPM_DATABASE_SIZE} bytes")
    try:
        return read_headers(kind, database)
    except SystemFault as error:
        raise UnreadablePackagesError(
            f"rpm on this machine doesn't take this {_SPOKEN[kind]}: {error.message}",
            hint="rpm 4.16 or newer converts it to SQLite: `rpm --root TREE --rebuilddb`.",
        ) from error


def _provide_files(
    view: TreeView, packages: Sequence[Installed], owners: Mapping[bytes, tuple[str, ...]]
) -> tuple[Installed, ...]:
    """The packages, which provide those of their files that any needs by path."""
    provided: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in _needed_paths(packages):
        for owner in owners.get(view.place(os.fsencode(path.lstrip("/"))), ()):
            provided[owner].append((path, ""))
    return tuple(
        replace(one, provides=(*one.provides, *provided.get(one.name, ()))) for one in packages
    )


def _needed_paths(packages: Iterable[Installed]) -> list[str]:
    names = {relation.name for one in packages for group in one.needs for relation in group}
    return sorted(name for name in names if name.startswith("/"))
