"""What a pack is to encode: its targets, the base of each, and what their entries share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final

import msgspec
import numpy as np

from hacktree.common.delta.btf import learn
from hacktree.common.delta.contents import TreeComparison, compare_trees
from hacktree.common.delta.elf import U8, NotElfError, parse_elf
from hacktree.common.delta.pairing import (
    Place,
    Sketch,
    pair_by_sketches,
    pair_contents,
    sketch_content,
)
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.walk import LoadTree, walk_tree
from hacktree.common.repository.repository import Repository

_MODULE: Final = b".ko"
_FEW_MODULES: Final = 16
"""Fewer modules than this are not worth a map of their kernel's types."""

_MIN_SKETCHED: Final = 4 << 10
_MAX_SKETCHED: Final = 4 << 20
_MOST_SKETCHED: Final = 256
"""Bytes of a content that is paired by what it holds, and how many of them at most."""


class Target(msgspec.Struct, frozen=True):
    """An object that a pack brings: its ordinal, one of its paths, its base's ordinal (-1: none).

    `uses_maps`: whether the pack's shared maps may matter for it.
    """

    ordinal: int
    id: ObjectId
    size: int
    path: bytes
    base: int
    uses_maps: bool


class PackPlan(msgspec.Struct, frozen=True):
    """The targets in order of path, so that those of a directory or package stand together."""

    old: ObjectId | None
    new: ObjectId
    comparison: TreeComparison
    targets: list[Target]


def plan_pack(repository: Repository, old: ObjectId | None, new: ObjectId) -> PackPlan:
    """Compare two trees and pair what is new with what was there, by name or else by content."""
    load = cache(repository.load_tree)  # Both trees are walked twice.
    comparison = compare_trees(load, old, new)
    bases = {content: number for number, content in enumerate(comparison.bases)}
    ordinals = {content: number for number, content in enumerate(comparison.targets)}
    here = [] if old is None else list(_files(load, old))
    there = list(_files(load, new))
    places = _places(there, ordinals)
    pairs = pair_contents(_places(here, bases), places)
    kept = {entry.id for _, entry in there}
    vanished = [number for content, number in bases.items() if content not in kept]
    pairs |= _pair_by_content(repository, comparison, pairs, vanished)
    first = {place.content: place.path for place in reversed(places)}
    targets = [
        Target(
            ordinal,
            content,
            comparison.sizes[content],
            first[ordinal],
            pairs.get(ordinal, -1),
            first[ordinal].endswith(_MODULE),
        )
        for content, ordinal in ordinals.items()
    ]
    return PackPlan(old, new, comparison, sorted(targets, key=lambda target: target.path))


def _files(load: LoadTree, root: ObjectId) -> Iterator[tuple[bytes, FileEntry]]:
    for path, entry in walk_tree(load, root):
        if isinstance(entry, FileEntry):
            yield path, entry


def _places(
    files: Iterable[tuple[bytes, FileEntry]], numbers: Mapping[ObjectId, int]
) -> list[Place]:
    """The paths of the numbered contents."""
    return [
        Place(path, numbers[entry.id], entry.size) for path, entry in files if entry.id in numbers
    ]


def _pair_by_content(
    repository: Repository,
    comparison: TreeComparison,
    pairs: Mapping[int, int],
    vanished: Sequence[int],
) -> dict[int, int]:
    """Bases for what names don't pair, among what is gone and is nobody's base yet."""
    unpaired = [number for number in range(len(comparison.targets)) if number not in pairs]
    taken = set(pairs.values())
    left = [number for number in vanished if number not in taken]
    if not unpaired or not left:
        return {}
    return pair_by_sketches(
        _sketches(repository, comparison, comparison.bases, left),
        _sketches(repository, comparison, comparison.targets, unpaired),
    )


def _sketches(
    repository: Repository,
    comparison: TreeComparison,
    contents: Sequence[ObjectId],
    numbers: Sequence[int],
) -> dict[int, Sketch]:
    """Sketches of the largest of these contents that are neither tiny nor huge."""
    sizes = {number: comparison.sizes[contents[number]] for number in numbers}
    fitting = [number for number in numbers if _MIN_SKETCHED <= sizes[number] <= _MAX_SKETCHED]
    fitting.sort(key=lambda number: (-sizes[number], number))
    return {
        number: sketch_content(_read(repository, contents[number], sizes[number]))
        for number in fitting[:_MOST_SKETCHED]
    }


def _read(repository: Repository, content: ObjectId, size: int) -> bytes:
    entry = FileEntry(b"-", 0o644, 0, 0, (), content, size)
    return b"".join(repository.read_content(entry))


def learn_maps(repository: Repository, plan: PackPlan, threads: int) -> Shared:
    """Where the types of a rebuilt kernel went, from its modules; reads all of them."""
    modules = [target for target in plan.targets if target.uses_maps and target.base >= 0]
    if len(modules) < _FEW_MODULES:
        return Shared()
    comparison = plan.comparison

    def sections(target: Target) -> tuple[U8, U8] | None:
        base = comparison.bases[target.base]
        old = _type_section(repository, base, comparison.sizes[base])
        new = _type_section(repository, target.id, target.size)
        return None if old is None or new is None else (old, new)

    with ThreadPoolExecutor(threads, "types") as executor:
        return Shared(learn(_present(list(executor.map(sections, modules)))))


def _present(pairs: Sequence[tuple[U8, U8] | None]) -> Iterator[tuple[U8, U8]]:
    return (pair for pair in pairs if pair is not None)


def _type_section(repository: Repository, content: ObjectId, size: int) -> U8 | None:
    data = np.frombuffer(_read(repository, content, size), np.uint8)
    try:
        section = parse_elf(data).section(b".BTF")
    except NotElfError:
        return None
    return None if section is None else data[section.offset : section.end].copy()
