"""Choosing the old content that each new one is encoded against.

From the surest sign to the weakest: the same path; the same path but for its numbers (a kernel's
modules move to another directory with every release); the same name in a directory that was
renamed; the same name anywhere. What is left may be paired by content (`pair_by_sketches`).
A wrong pair costs time, never correctness: the encoder compares with the whole object.
"""

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log2
from typing import Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

_NUMBERS = re.compile(rb"[0-9]+(?:[.+~-][0-9]+)*")
_NEIGHBOURS: Final = 4
"""Candidates of the nearest size, and of the nearest path, that are looked at on either side."""
_MAX_GROWTH: Final = 16
_SMALL: Final = 64 << 10
_COMMON_NAME: Final = 32
"""A name in more old directories than this says nothing about which of them was renamed."""

_Value = TypeVar("_Value", int, bytes)


class Place(msgspec.Struct, frozen=True):
    """One path of a content: `content` is its number on its side, `size` its bytes."""

    path: bytes
    content: int
    size: int


def pair_contents(old: Sequence[Place], new: Sequence[Place]) -> dict[int, int]:
    """The base of each content of `new`, by number, as far as names tell; the rest is absent.

    A content may have several places. Time is n log n in the places of both sides.
    """
    search = _Search(old)
    pairs: dict[int, int] = {}
    for find in (search.same_path, search.same_but_numbers):
        _pair(new, pairs, find)
    _pair(new, pairs, _renamed_directories(search, [p for p in new if p.content not in pairs]))
    for find in (search.same_name, search.same_name_but_numbers):
        _pair(new, pairs, find)
    return pairs


def _pair(
    new: Sequence[Place], pairs: dict[int, int], find: Callable[[Place], Place | None]
) -> None:
    for place in new:
        if place.content not in pairs:
            base = find(place)
            if base is not None:
                pairs[place.content] = base.content


def _without_numbers(path: bytes) -> bytes:
    return _NUMBERS.sub(b"0", path)


def _split(path: bytes) -> tuple[bytes, bytes]:
    directory, _, name = path.rpartition(b"/")
    return directory, name


class _Index:
    """Places by a key, each group in order of size and in order of path."""

    def __init__(self, places: Iterable[Place], key: Callable[[bytes], bytes]) -> None:
        self._key = key
        groups: dict[bytes, list[Place]] = defaultdict(list)
        for place in places:
            groups[key(place.path)].append(place)
        self._by_path = {name: sorted(group, key=_path_of) for name, group in groups.items()}
        self._by_size = {name: sorted(group, key=_size_of) for name, group in groups.items()}

    def find(self, place: Place) -> Place | None:
        """The most similar place with the same key: by size, then by what the paths share."""
        key = self._key(place.path)
        if key not in self._by_path:
            return None
        near = _around(self._by_size[key], place.size, _size_of)
        near += _around(self._by_path[key], place.path, _path_of)
        fitting = [candidate for candidate in near if _fits(candidate, place)]
        return min(fitting, key=lambda candidate: _distance(candidate, place), default=None)


def _path_of(place: Place) -> bytes:
    return place.path


def _size_of(place: Place) -> int:
    return place.size


def _around(group: list[Place], value: _Value, key: Callable[[Place], _Value]) -> list[Place]:
    """The candidates next to `value` in a group ordered by `key`."""
    middle = bisect_left(group, value, key=key)
    return group[max(0, middle - _NEIGHBOURS) : middle + _NEIGHBOURS]


class _Search:
    """The old places by everything that a new one may share with them."""

    def __init__(self, old: Sequence[Place]) -> None:
        self.by_path = {place.path: place for place in old}
        self._numbers = _Index(old, _without_numbers)
        self._names = _Index(old, lambda path: _split(path)[1])
        self._name_numbers = _Index(old, lambda path: _without_numbers(_split(path)[1]))
        self.directories: dict[bytes, list[bytes]] = defaultdict(list)
        for place in old:
            directory, name = _split(place.path)
            self.directories[name].append(directory)

    def same_path(self, place: Place) -> Place | None:
        return self.by_path.get(place.path)

    def same_but_numbers(self, place: Place) -> Place | None:
        return self._numbers.find(place)

    def same_name(self, place: Place) -> Place | None:
        return self._names.find(place)

    def same_name_but_numbers(self, place: Place) -> Place | None:
        return self._name_numbers.find(place)


def _fits(old: Place, new: Place) -> bool:
    """Whether a base of another path is worth reading for so small, or so large, a file."""
    return old.size <= _MAX_GROWTH * new.size + _SMALL and new.size <= _MAX_GROWTH * old.size


def _distance(old: Place, new: Place) -> tuple[int, int, int, bytes]:
    """How far apart two places are: depth, size in steps of a half, then what paths share."""
    depth = abs(old.path.count(b"/") - new.path.count(b"/"))
    size = round(2 * abs(log2((old.size + 1) / (new.size + 1))))
    return depth, size, -_shared_ends(old.path, new.path), old.path


def _shared_ends(a: bytes, b: bytes) -> int:
    """Bytes of the common prefix and the common suffix."""
    length = min(len(a), len(b))
    prefix = next((i for i in range(length) if a[i] != b[i]), length)
    suffix = next((i for i in range(length) if a[-1 - i] != b[-1 - i]), length)
    return min(prefix + suffix, length)


def _renamed_directories(
    search: _Search, unpaired: Sequence[Place]
) -> Callable[[Place], Place | None]:
    """Where a directory came from is what most of its names say."""
    votes: dict[bytes, Counter[bytes]] = defaultdict(Counter)
    for place in unpaired:
        directory, name = _split(place.path)
        known = search.directories.get(name, ())
        if len(known) <= _COMMON_NAME:
            votes[directory].update(known)
    origin = {
        directory: min(counts, key=lambda old: (-counts[old], -_shared_ends(old, directory), old))
        for directory, counts in votes.items()
        if counts
    }

    def find(place: Place) -> Place | None:
        directory, name = _split(place.path)
        if directory not in origin:
            return None
        base = search.by_path.get(b"/".join((origin[directory], name)).lstrip(b"/"))
        return base if base is not None and _fits(base, place) else None

    return find


SKETCH_LENGTH: Final = 32
"""Values in a sketch."""

Sketch = npt.NDArray[np.uint64]


def sketch_content(data: bytes) -> Sketch:
    """A sketch of `data`: contents that share much have equal values at many places.

    The smallest hash, by residue class, of all runs of eight bytes at content-defined places. Time
    is linear in `data`.
    """
    raw = np.frombuffer(data, np.uint8)
    sketch = np.full(SKETCH_LENGTH, np.iinfo(np.uint64).max, np.uint64)
    if len(raw) < 16:
        return sketch
    words = np.lib.stride_tricks.sliding_window_view(raw, 8).copy().view("<u8").reshape(-1)
    words = words[words != (words >> np.uint64(8)) | (words << np.uint64(56))]  # no runs of a byte
    hashes = words * np.uint64(0x9E3779B97F4A7C15)
    hashes ^= hashes >> np.uint64(29)
    chosen = hashes[hashes % np.uint64(16) == 0] * np.uint64(0xBF58476D1CE4E5B9)
    classes = (chosen >> np.uint64(58)).astype(np.int64) % SKETCH_LENGTH
    np.minimum.at(sketch, classes, chosen)
    return sketch


def pair_by_sketches(
    old: Mapping[int, Sketch], new: Mapping[int, Sketch], *, least: int = 4
) -> dict[int, int]:
    """The base of each new content that shares at least `least` values of its sketch with one."""
    holders: dict[tuple[int, int], list[int]] = defaultdict(list)
    empty = int(np.iinfo(np.uint64).max)
    for content, sketch in old.items():
        for place, value in enumerate(sketch.tolist()):
            if value != empty:
                holders[(place, value)].append(content)
    pairs = {}
    for content, sketch in new.items():
        votes: Counter[int] = Counter()
        for place, value in enumerate(sketch.tolist()):
            known = holders.get((place, value), ())
            if len(known) <= _COMMON_NAME:
                votes.update(known)
        best = min(votes, key=lambda base: (-votes[base], base), default=None)
        if best is not None and votes[best] >= least:
            pairs[content] = best
    return pairs
