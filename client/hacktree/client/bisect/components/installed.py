"""Packages as a package manager's database describes them: what they need, which files they own.

Pure. dpkg's and rpm's databases are told in these terms, each with its own order of versions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

Fits = Callable[[str, "Relation"], bool]
"""Whether something of this version, "" if it has none, is what the relation asks for."""

_HOLDS: Final[Mapping[str, Callable[[int], bool]]] = {
    "<<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    "=": lambda order: order == 0,
    ">=": lambda order: order >= 0,
    ">>": lambda order: order > 0,
}
OPERATORS: Final = frozenset(_HOLDS)


def holds(operator: str, order: int) -> bool:
    """Whether a version meets an operator of `OPERATORS`: `order` is negative, 0 or positive where
    it is older than, equal to, newer than the relation's.
    """
    return _HOLDS[operator](order)


class Relation(msgspec.Struct, frozen=True):
    """A package or what one provides; with an operator of `OPERATORS`, in such a version."""

    name: str
    operator: str = ""
    version: str = ""


class Installed(msgspec.Struct, frozen=True):
    """An installed package. `needs`: of each group one; `against`: what must not be there.

    `provides` are names with their versions, "" where none is said.
    """

    name: str
    version: str
    architecture: str
    source: str
    needs: tuple[tuple[Relation, ...], ...] = ()
    against: tuple[Relation, ...] = ()
    provides: tuple[tuple[str, str], ...] = ()


class PackageSet(msgspec.Struct, frozen=True):
    """What is installed in one build: `owners` are the names of whoever lists a path.

    `parts`: what the database holds of each name, of all architectures and versions together, for
    composing another database (`database.Form`).
    """

    packages: tuple[Installed, ...]
    owners: Mapping[bytes, tuple[str, ...]]
    fits: Fits
    parts: Mapping[str, bytes] = {}

    @property
    def versions(self) -> dict[str, str]:
        """The version of each name; several, of architectures say, are joined."""
        found: dict[str, list[str]] = defaultdict(list)
        for package in self.packages:
            if package.version not in found[package.name]:
                found[package.name].append(package.version)
        return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


class Providers:
    """Answers which installed packages fit a relation."""

    def __init__(self, packages: PackageSet) -> None:
        self._fits = packages.fits
        self._by_name: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for package in packages.packages:
            self._by_name[package.name].append((package.name, package.version))
            for name, version in package.provides:
                self._by_name[name].append((package.name, version))
        self._known: dict[tuple[Relation, ...], list[str]] = {}

    def of(self, relations: tuple[Relation, ...]) -> list[str]:
        """The names of packages that fit one of these, those of the first relation first."""
        found = self._known.get(relations)
        if found is None:
            found = list(dict.fromkeys(name for one in relations for name in self._fitting(one)))
            self._known[relations] = found
        return found

    def _fitting(self, relation: Relation) -> Iterator[str]:
        for name, version in self._by_name.get(relation.name, ()):
            if self._fits(version, relation):
                yield name
