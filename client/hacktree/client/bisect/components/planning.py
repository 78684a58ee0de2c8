"""Taking the difference of two builds apart: which change belongs to which package, and what needs
what. Pure.

A mixture is the good build with the changes of some components applied. Each path that differs
belongs to one component, so the mixture of none is the good build and that of all is the bad one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from hacktree.client.bisect.components.implications import close, group, needs_of_groups
from hacktree.client.bisect.components.installed import PackageSet, Providers
from hacktree.common.objects.diff import Change
from hacktree.common.objects.tree import DirectoryEntry

REST: Final = "(files of no package)"
"""The component of what no package owns: accounts, links that a script made, caches."""


class Component(msgspec.Struct, frozen=True):
    """Packages that can only come together: by name, with the old and the new version, "" where
    it is not installed; equal ones where only files differ. `needs`: components that must be new
    where this one is.
    """

    packages: tuple[tuple[str, str, str], ...]
    changes: tuple[Change, ...]
    needs: frozenset[int] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """The packages' names."""
        return frozenset(name for name, _, _ in self.packages)


class Plan(msgspec.Struct, frozen=True):
    """The components; each comes after those it needs."""

    components: tuple[Component, ...]

    def close(self, chosen: Iterable[int]) -> frozenset[int]:
        """The chosen components and what they need."""
        needs = {number: one.needs for number, one in enumerate(self.components)}
        return close(frozenset(chosen), needs)

    def changes(self, chosen: Iterable[int]) -> list[Change]:
        """What differs from the good build where these components are new."""
        return [change for number in chosen for change in self.components[number].changes]


class Sides(msgspec.Struct, frozen=True):
    """Both builds' packages. `info` as `Form.info`."""

    old: PackageSet
    new: PackageSet
    info: bytes = b""


def plan_components(sides: Sides, changes: Sequence[Change]) -> Plan:
    """Sort the changes into components. Equal input, equal result."""
    return _Planner(sides, changes).plan()


class _Planner:
    def __init__(self, sides: Sides, changes: Sequence[Change]) -> None:
        self._sides = sides
        self._changes = changes
        old, new = sides.old.versions, sides.new.versions
        self._versions = {
            name: (old.get(name, ""), new.get(name, "")) for name in old.keys() | new.keys()
        }
        self._changed = {name for name, pair in self._versions.items() if pair[0] != pair[1]}
        self._needs: dict[str, set[str]] = defaultdict(set)

    def plan(self) -> Plan:
        owners = [self._owner(change) for change in self._changes]
        self._changed |= {owner for owner in owners if owner is not None}
        whose = [
            owner or self._made_by(change) or REST
            for owner, change in zip(owners, self._changes, strict=True)
        ]
        self._tie_sources()
        self._tie_replaced(whose)
        self._follow_moves(whose)
        old, new = self._sides.old, self._sides.new
        of_old, of_new = Providers(old), Providers(new)
        self._follow_relations(new, of_new, of_old, self._require)
        self._follow_relations(old, of_old, of_new, lambda name, other: self._require(other, name))
        self._follow_replacements(of_old, of_new)
        return self._assemble(whose)

    def _assemble(self, whose: Sequence[str]) -> Plan:
        # What no package owns comes first: an account too many harms less than one that is missing.
        rest = [REST] if REST in whose else []
        names = [*rest, *sorted(self._changed)]
        number = {name: at for at, name in enumerate(names)}
        needs = {
            number[name]: {number[other] for other in others & number.keys()}
            for name, others in self._needs.items()
            if name in number
        }
        groups = group(len(names), needs)
        of_groups = needs_of_groups(groups, needs)
        place = {names[member]: at for at, members in enumerate(groups) for member in members}
        changes: dict[int, list[Change]] = defaultdict(list)
        for owner, change in zip(whose, self._changes, strict=True):
            changes[place[owner]].append(change)
        return Plan(
            tuple(
                Component(
                    tuple(
                        (names[one], *self._versions.get(names[one], ("", ""))) for one in members
                    ),
                    tuple(changes[at]),
                    of_groups[at],
                )
                for at, members in enumerate(groups)
            )
        )

    # Whose a path is

    def _owner(self, change: Change) -> str | None:
        """The package that lists the path, or keeps it for itself."""
        names = self._listed(change)
        if len(names) > 1 and not (
            isinstance(change.old, DirectoryEntry) or isinstance(change.new, DirectoryEntry)
        ):
            self._tie(names)
        if names:
            # Of several a changed one: a directory belongs to all that have something in it.
            return next((name for name in names if name in self._changed), names[0])
        info = self._sides.info
        if info and change.path.startswith(info):
            name = change.path.removeprefix(info).rpartition(b".")[0].split(b":")[0]
            text = name.decode("utf-8", "replace")
            return text if text in self._versions else None
        return None

    def _listed(self, change: Change) -> tuple[str, ...]:
        old, new = self._sides.old.owners, self._sides.new.owners
        sides = (new, old) if change.new is not None else (old, new)
        found = next((side[change.path] for side in sides if change.path in side), ())
        return tuple(name for name in found if name in self._versions)

    def _made_by(self, change: Change) -> str | None:
        """The changed package that likely made a path that none lists."""
        side = self._sides.old if change.new is None else self._sides.new
        directory, _, name = change.path.rpartition(b"/")
        above, _, cache = directory.rpartition(b"/")
        if cache == b"__pycache__":
            source = b"%b/%b.py" % (above, name.split(b".")[0])
            return self._single(side.owners.get(source, ()))
        kernel = self._kernel_of(side, change.path)
        if kernel is not None:
            return kernel
        listed = next((path for path in _above(change.path) if path in side.owners), None)
        return None if listed is None else self._single(side.owners[listed])

    def _kernel_of(self, side: PackageSet, path: bytes) -> str | None:
        """Of `boot/initrd.img-6.1.0-9-amd64`: whose usr/lib/modules/6.1.0-9-amd64 is."""
        if not path.startswith(b"boot/"):
            return None
        name = path.rpartition(b"/")[2]
        for start in (at + 1 for at in range(len(name)) if name[at : at + 1] == b"-"):
            version = name[start:].removesuffix(b".img")
            for place in (b"usr/lib/modules/", b"lib/modules/"):
                owner = self._single(side.owners.get(place + version, ()))
                if owner is not None:
                    return owner
        return None

    def _single(self, names: Sequence[str]) -> str | None:
        return names[0] if len(names) == 1 and names[0] in self._changed else None

    # What must come together, or after what

    def _tie(self, names: Iterable[str]) -> None:
        """These only come together."""
        ordered = list(names)
        for one, other in zip(ordered, [*ordered[1:], *ordered[:1]], strict=True):
            self._require(one, other)

    def _require(self, name: str, other: str) -> None:
        self._needs[name].add(other)

    def _tie_sources(self) -> None:
        """Packages that one source was built into."""
        sources: dict[str, set[str]] = defaultdict(set)
        for package in (*self._sides.old.packages, *self._sides.new.packages):
            if package.name in self._changed:
                sources[package.source].add(package.name)
        for names in sources.values():
            self._tie(sorted(names))

    def _tie_replaced(self, whose: Sequence[str]) -> None:
        """A directory that became something else, or the reverse, and what is below it."""
        tops: dict[bytes, str] = {}
        for owner, change in zip(whose, self._changes, strict=True):
            if tops:
                above = next((path for path in _above(change.path) if path in tops), None)
                if above is not None:
                    self._tie((tops[above], owner))
            was, became = (isinstance(side, DirectoryEntry) for side in (change.old, change.new))
            if None not in (change.old, change.new) and was != became:
                tops[change.path] = owner

    def _follow_moves(self, whose: Sequence[str]) -> None:
        """A file that one package gave up to another: without the other it would be missing."""
        for owner, change in zip(whose, self._changes, strict=True):
            if change.new is None or isinstance(change.new, DirectoryEntry):
                continue
            for before in self._sides.old.owners.get(change.path, ()):
                if before != owner and before in self._changed and owner != REST:
                    self._require(before, owner)

    def _follow_relations(
        self,
        packages: PackageSet,
        here: Providers,
        there: Providers,
        imply: Callable[[str, str], None],
    ) -> None:
        """Where a package is on its side, what it needs must be, and what it refuses must not be
        on the other. `imply` is told.
        """
        for package in packages.packages:
            if package.name not in self._changed:
                continue
            for relations in package.needs:
                fitting = here.of(relations)
                if fitting and not set(fitting) & set(there.of(relations)):
                    imply(package.name, fitting[0])
            for relation in package.against:
                for other in (
                    set(there.of((relation,))) - set(here.of((relation,))) - {package.name}
                ):
                    imply(package.name, other)

    def _follow_replacements(self, old: Providers, new: Providers) -> None:
        """What an unchanged package needs: where one satisfier goes, the other must have come."""
        for package in self._sides.old.packages:
            if package.name not in self._changed:
                for relations in package.needs:
                    before, after = old.of(relations), new.of(relations)
                    if before and after and not set(before) & set(after):
                        self._require(before[0], after[0])


def _above(path: bytes) -> Iterator[bytes]:
    """The directories that a path is in, the nearest first."""
    while path := path.rpartition(b"/")[0]:
        yield path
