"""Which trees of a branch packs should join: pure planning.

Each build is reached from the one before it, and builds at multiples of 2, 4, 8… also from those as
far back, so that a route between any two of 64 builds takes at most 8 packs, either way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hacktree.common.objects.ids import ObjectId


@dataclass(frozen=True, slots=True)
class Build:
    """One build of a branch: its sequence and its tree."""

    sequence: int
    tree: ObjectId


def wanted_pairs(history: Sequence[Build]) -> list[tuple[ObjectId, ObjectId]]:
    """(from, to) for every pack that the branch should have; the most useful first.

    `history` is newest first. Builds whose trees are equal need no pack. Backward packs follow the
    forward ones of the same step: whoever rolls back further than a machine remembers, or bisects,
    takes them.
    """
    by_sequence = {build.sequence: build.tree for build in history}
    forward: list[tuple[int, ObjectId, ObjectId]] = []
    for build in history:
        step = 1
        while step == 1 or (build.sequence % step == 0 and step <= len(history)):
            before = by_sequence.get(build.sequence - step)
            if before is not None:
                forward.append((step, before, build.tree))
            step *= 2
    pairs: dict[tuple[ObjectId, ObjectId], None] = {}
    for _, old, new in sorted(forward, key=lambda row: row[0]):
        pairs.setdefault((old, new))
    for _, old, new in sorted(forward, key=lambda row: row[0]):
        pairs.setdefault((new, old))
    return [pair for pair in pairs if pair[0] != pair[1]]
