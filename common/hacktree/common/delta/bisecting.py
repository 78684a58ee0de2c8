"""Which packs a bisection of a range of builds would take: pure planning.

A bisection keeps its good end and goes forward: to the middle, and from there, or again from the
lower end, to the middle of the half that is left. So the first steps of all bisections of a range
are few, and what the packs of its branch do not join already is worth making.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from hacktree.common.delta.graph import Edge
from hacktree.common.delta.pairs import Pair
from hacktree.common.delta.route import MAX_HOPS
from hacktree.common.objects.ids import ObjectId

MAX_STEPS_JOINED: Final = 31
"""Steps of a range that are looked at: the first five tests of whatever course it takes."""


def bisection_pairs(trees: Sequence[ObjectId]) -> Iterator[Pair]:
    """Old and new tree of each step that a bisection of `trees`, oldest first, may take.

    The first test comes first, then both that may follow it. Builds with equal trees need no pack.
    """
    intervals = deque([(0, len(trees) - 1)])
    while intervals:
        low, high = intervals.popleft()
        if high - low < 2:
            continue
        middle = (low + high) // 2
        if trees[low] != trees[middle]:
            yield trees[low], trees[middle]
        intervals += [(low, middle), (middle, high)]


def first_missing(trees: Sequence[ObjectId], edges: Iterable[Edge]) -> Pair | None:
    """The first of those steps that no route of packs leads along; None if all have one."""
    onward: dict[ObjectId, set[ObjectId]] = {}
    for edge in edges:
        if edge.old is not None:
            onward.setdefault(edge.old, set()).add(edge.new)
    pairs = islice(bisection_pairs(trees), MAX_STEPS_JOINED)
    return next((pair for pair in pairs if not _is_joined(onward, *pair)), None)


def _is_joined(onward: dict[ObjectId, set[ObjectId]], old: ObjectId, new: ObjectId) -> bool:
    reached = latest = {old}
    for _ in range(MAX_HOPS):
        latest = {tree for here in latest for tree in onward.get(here, ())} - reached
        if new in latest:
            return True
        reached = reached | latest
    return False
