"""What is known of a build's package database, whichever program keeps it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from hacktree.client.bisect.components.installed import PackageSet
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.errors import UserError
from hacktree.common.objects.commit import MAX_ENTRIES
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import Package


class NoPackagesError(UserError):
    """The tree doesn't say which packages it is made of, or whose its files are."""


class Form(Protocol):
    """How and where a tree keeps its database. Builds can be mixed whose forms are equal.

    `parts` are those of `PackageSet.parts`; joined, they say what is installed: a stream that is
    the same for the same parts, whatever the program makes of it.
    """

    @property
    def path(self) -> bytes:
        """The file that says what is installed."""
        ...

    @property
    def info(self) -> bytes:
        """The directory of what is kept for each package, with a '/' at the end; or empty."""
        ...

    @property
    def caveat(self) -> str:
        """What a person should know of the mixtures' databases; or empty."""
        ...

    def covers(self, path: bytes) -> bool:
        """Whether the path is the database's: no package brings it, a mixture gets it anew."""
        ...

    def join(self, parts: Sequence[bytes]) -> bytes:
        """The database of these parts."""
        ...

    def list_packages(self, joined: bytes) -> tuple[Package, ...]:
        """The packages that it holds, sorted."""
        ...

    def write(self, joined: bytes) -> Mapping[bytes, bytes]:
        """The contents of its files by path; none if only the good build's can be kept.

        Raises `SystemFault` if the program that writes it fails.
        """
        ...


class Database(msgspec.Struct, frozen=True):
    """A build's packages, and how it keeps them."""

    packages: PackageSet
    form: Form


def spell_owners(
    view: TreeView, listings: Iterable[tuple[str, list[bytes]]]
) -> dict[bytes, tuple[str, ...]]:
    """Who lists which path, in the spelling that the tree has: /lib may lead to /usr/lib."""
    owners: dict[bytes, tuple[str, ...]] = {}
    places: dict[bytes, bytes] = {}
    for name, paths in listings:
        for path in paths:
            above, slash, last = path.rpartition(b"/")
            if above not in places:
                places[above] = view.resolve(above)[0]
            place = _join(places[above], last) if slash else path
            known = owners.get(place, ())
            if name not in known:
                owners[place] = (*known, name)
        if len(owners) > MAX_ENTRIES:
            raise FormatError(f"it names more than {MAX_ENTRIES} paths")
    return owners


def _join(above: bytes, name: bytes) -> bytes:
    return b"/".join((above, name)) if above else name
