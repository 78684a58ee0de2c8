"""Which trees of a branch packs should join: pure planning.

A build is reached from the one before it, one whose sequence is a multiple of 2 also from two back,
of 4 from four back, of 8 from 8, 16, 24 and 32 back; and the same ways back. So a route climbs to a
multiple of 8 in 3 steps at most, crosses up to 63 builds in 2 and comes down in 3.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from hacktree.common.objects.ids import ObjectId

WINDOW: Final = 64
"""Builds of a branch that are kept within `MAX_STEPS` packs of one another."""

MAX_STEPS: Final = 8

_ANCHOR: Final = 8
_STEPS: Final = ((1, 1), (2, 2), (4, 4), *((_ANCHOR, _ANCHOR * k) for k in range(1, 5)))
"""(divisor, step): a build whose sequence the divisor divides is joined to the one `step` back."""


class Build(msgspec.Struct, frozen=True):
    """One build of a branch: its sequence and its tree."""

    sequence: int
    tree: ObjectId


Pair = tuple[ObjectId, ObjectId]
"""The trees that a pack leads from and to."""


def wanted_pairs(history: Sequence[Build]) -> list[Pair]:
    """Every pack that a branch should have; the most useful first.

    `history` is newest first, `WINDOW` builds at most are looked at. Short steps come before long
    ones, and all steps forward before the steps back, which serve rollback and bisection. Builds
    with equal trees need no pack between them; for a build that is missing the others still stand.
    """
    builds = history[:WINDOW]
    forward = [pair for step in _STEPS for pair in _steps_forward(builds, *step)]
    backward = [(new, old) for old, new in forward]
    return [pair for pair in dict.fromkeys([*forward, *backward]) if pair[0] != pair[1]]


def pairs_of_newest(history: Sequence[Build]) -> list[Pair]:
    """Those of `wanted_pairs` that lead to or from the newest build: what a new build lacks."""
    if not history:
        return []
    newest = history[0].tree
    return [pair for pair in wanted_pairs(history) if newest in pair]


def _steps_forward(builds: Sequence[Build], divisor: int, step: int) -> Iterator[Pair]:
    trees = {build.sequence: build.tree for build in builds}
    for build in builds:
        before = trees.get(build.sequence - step)
        if build.sequence % divisor == 0 and before is not None:
            yield before, build.tree
