"""Where the files of a layer go in a root, and what stands in their way.

Directories that the root has stay what they are, links to directories too: what a layer ships as
`lib/x` goes to `usr/lib/x` in a root whose `lib` is a link there. What the root has at a file's
place is a conflict, unless it is the same or a pattern allows it to be replaced.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from hacktree.client.layers.view import (
    DIRECTORY,
    FILE,
    Directory,
    File,
    Link,
    Node,
    RootView,
    UnresolvableError,
    resolve,
)
from hacktree.common.objects.names import display_path
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry, SymlinkEntry

UNSHIPPED: Final = frozenset({b"dev", b"proc", b"run", b"sys", b"tmp"})
"""Directories of a root that are mounted over, so that nothing in them is ever seen."""

_WHITEOUT: Final = b".wh."
_GLOB: Final = re.compile(r"[*?[]")


class Conflict(msgspec.Struct, frozen=True):
    """A path of a layer that can't be laid over the root, and why."""

    layer: str
    path: bytes
    why: str

    def __str__(self) -> str:
        return f"{display_path(self.path)}: {self.why}"


class Placement(msgspec.Struct):
    """What laying a layer does: new `directories`, then `files` (links too), by their paths in the
    root; `replaced` are those that the root has. Nothing is done if there are `conflicts`.
    """

    directories: list[tuple[bytes, DirectoryEntry]] = []
    files: list[tuple[bytes, FileEntry | SymlinkEntry]] = []
    replaced: list[bytes] = []
    conflicts: list[Conflict] = []


def compile_patterns(patterns: Iterable[str]) -> Callable[[bytes], bool]:
    """Whether one of these `fnmatch` patterns matches a path, or a directory above it."""
    translated = [
        fnmatch.translate(pattern.strip("/").encode().decode("latin-1")) for pattern in patterns
    ]
    if not translated:
        return lambda path: False
    matches = re.compile("|".join(translated)).match

    def matched(path: bytes) -> bool:
        parts = path.decode("latin-1").split("/")
        return any(matches("/".join(parts[:count])) for count in range(1, len(parts) + 1))

    return matched


def find_removed(view: RootView, pattern: str) -> list[bytes]:
    """The paths of a root that a pattern of `remove` matches, none below another of them."""
    literal = _GLOB.split(pattern.strip("/"), maxsplit=1)[0].encode()
    fixed = literal.rpartition(b"/")[0]
    tail = pattern.strip("/").encode()[len(fixed) :].lstrip(b"/")
    try:
        start = resolve(view, fixed, last=True)
    except UnresolvableError:
        return []
    if start.split(b"/", 1)[0] in UNSHIPPED:
        return []
    if literal.endswith(tail):
        path = _join(start, tail)
        found = [path] if view.find(path) is not None else []
    else:
        matches = re.compile(fnmatch.translate(tail.decode("latin-1"))).match
        found = list(_walk(view, start, lambda name: matches(name.decode("latin-1")) is not None))
    return [path for path in found if path.split(b"/", 1)[0] not in UNSHIPPED]


def _walk(view: RootView, start: bytes, wanted: Callable[[bytes], bool]) -> Iterator[bytes]:
    """Paths below `start` whose part below it is wanted; what is below those is left out."""
    stack = [b""]
    while stack:
        below = stack.pop()
        for name in view.names(_join(start, below)):
            relative = _join(below, name)
            path = _join(start, relative)
            if wanted(relative):
                yield path
            elif isinstance(view.find(path), Directory):
                stack.append(relative)


def place_layer(
    view: RootView,
    layer: str,
    entries: Iterable[tuple[bytes, Entry]],
    replace: Callable[[bytes], bool],
    owner_of: Callable[[bytes], str],
) -> Placement:
    """Plan the laying of a layer whose entries come directories first; changes nothing.

    `owner_of` says in words who put a path there: "the build", "layer mesa".
    """
    placer = _Placer(view, layer, replace, owner_of)
    for path, entry in entries:
        placer.add(path, entry)
    return placer.placement


class _Placer:
    def __init__(
        self,
        view: RootView,
        layer: str,
        replace: Callable[[bytes], bool],
        owner_of: Callable[[bytes], str],
    ) -> None:
        self.placement = Placement()
        self._view = view
        self._layer = layer
        self._replace = replace
        self._owner_of = owner_of
        self._places: dict[bytes, bytes] = {b"": b""}
        self._mine: dict[bytes, Entry] = {}

    def add(self, path: bytes, entry: Entry) -> None:
        parent, _, name = path.rpartition(b"/")
        if parent not in self._places:
            return  # The conflict is its directory's.
        place = _join(self._places[parent], name)
        if name.startswith(_WHITEOUT):
            self._refuse(
                path,
                "is a whiteout of a container's layer: name what is to go as a pattern of `remove`",
            )
        elif isinstance(entry, DirectoryEntry):
            self._add_directory(path, place, entry)
        elif place.split(b"/", 1)[0] in UNSHIPPED:
            top = display_path(place.split(b"/", 1)[0])
            self._refuse(path, f"nothing in /{top} is part of a root")
        else:
            self._add_file(path, place, entry)

    def _refuse(self, path: bytes, why: str) -> None:
        self.placement.conflicts.append(Conflict(self._layer, path, why))

    def _find(self, place: bytes) -> Node | None:
        mine = self._mine.get(place)
        if mine is None:
            return self._view.find(place)
        if isinstance(mine, SymlinkEntry):
            return Link(mine.target)
        return DIRECTORY if isinstance(mine, DirectoryEntry) else FILE

    def _add_directory(self, path: bytes, place: bytes, entry: DirectoryEntry) -> None:
        found = self._find(place)
        if found is None:
            if place.split(b"/", 1)[0] not in UNSHIPPED:
                self.placement.directories.append((place, entry))
            self._mine[place] = entry
            self._places[path] = place
        elif isinstance(found, Directory):
            self._places[path] = place
        elif isinstance(found, Link) and (target := self._linked_directory(place)) is not None:
            self._places[path] = target
        else:
            what = "a link to no directory" if isinstance(found, Link) else "a file"
            self._refuse(path, f"a directory here, {what} in {self._owner(place)}")

    def _linked_directory(self, place: bytes) -> bytes | None:
        try:
            target = resolve(self._view, place, last=True)
        except UnresolvableError:
            return None
        return target if isinstance(self._find(target), Directory) else None

    def _add_file(self, path: bytes, place: bytes, entry: FileEntry | SymlinkEntry) -> None:
        found = self._find(place)
        if found is not None:
            if self._is_same(place, found, entry):
                return
            what = "a file" if isinstance(entry, FileEntry) else "a link"
            if isinstance(found, Directory):
                self._refuse(path, f"{what} here, a directory in {self._owner(place)}")
                return
            if isinstance(found, Link) and self._linked_directory(place) is not None:
                self._refuse(path, f"{what} here, a link to a directory in {self._owner(place)}")
                return
            if place in self._mine:
                self._refuse(path, f"another file of this layer goes to {display_path(place)}, too")
                return
            if not (self._replace(place) or self._replace(path)):
                self._refuse(path, f"is in {self._owner(place)}, too")
                return
            self.placement.replaced.append(place)
        self.placement.files.append((place, entry))
        self._mine[place] = entry

    def _owner(self, place: bytes) -> str:
        return "this layer" if place in self._mine else self._owner_of(place)

    def _is_same(self, place: bytes, found: Node, entry: FileEntry | SymlinkEntry) -> bool:
        mine = self._mine.get(place)
        if isinstance(entry, SymlinkEntry):
            return isinstance(found, Link) and found.target == entry.target
        if isinstance(mine, FileEntry):
            return (mine.id, mine.mode) == (entry.id, entry.mode)
        return isinstance(found, File) and self._view.holds(place, entry)


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent and name else parent or name
