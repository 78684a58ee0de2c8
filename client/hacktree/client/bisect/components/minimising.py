"""Finding a smallest set of changes that still breaks: cut by bisection, then ddmin.

ddmin: A. Zeller, R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 28
(2), 2002. Its result is 1-minimal whatever the test answers, but it takes about 2 log2 n tests for
one culprit, and many more for two. So the set is cut first, by bisecting over prefixes of an order
in which each prefix makes sense: about log2 n tests for each culprit. ddmin gets what is left, and
proves it.

Pure. Who calls remembers answers: the same question comes twice, and an interrupted search is
continued by asking everything again.
"""

import enum
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

PROBES: Final = 4
"""Neighbours of a middle that are tried when it can't be tested, before ddmin takes over."""


class Outcome(enum.Enum):
    """What a test says of a set of changes: it works, it breaks as the whole does, or neither."""

    PASSES = "passes"
    FAILS = "fails"
    UNRESOLVED = "unresolved"


Test = Callable[[frozenset[int]], Outcome]
"""Tests the build that has these changes, and no others."""


class Minimal(msgspec.Struct, frozen=True):
    """`changes` together break it. Without any one of them it doesn't, as far as could be tested:
    of `doubtful` it could not.
    """

    changes: tuple[int, ...]
    doubtful: frozenset[int] = frozenset()


def minimise(order: Sequence[int], test: Test) -> Minimal:
    """A 1-minimal subset of `order` that fails, in that order.

    All of them together fail and none of them passes: the caller has seen it. Any answers give a
    1-minimal result; where adding a change never mends anything, one culprit among n takes at most
    ⌈log2 n⌉ + 1 tests.
    """
    left = _ddmin(_cut(list(order), test), test)
    if len(left) == 1:
        return Minimal(tuple(left))
    doubtful = [one for one in left if test(frozenset(left) - {one}) is Outcome.UNRESOLVED]
    return Minimal(tuple(left), frozenset(doubtful))


def _cut(candidates: list[int], test: Test) -> list[int]:
    """A subset that fails: what ends the shortest failing prefix is needed, then the rest is cut.

    Throughout, `needed` and `candidates` together fail.
    """
    needed: list[int] = []
    while candidates:
        if needed and test(frozenset(needed)) is Outcome.FAILS:
            return needed
        length = _shortest_failing_prefix(needed, candidates, test)
        if length is None:
            break
        needed.insert(0, candidates[length - 1])
        del candidates[length - 1 :]
    return candidates + needed


def _shortest_failing_prefix(
    needed: Sequence[int], candidates: list[int], test: Test
) -> int | None:
    """How long a prefix of `candidates` fails with `needed` while a shorter one passes.

    Drops from `candidates` what is not needed to fail. None: what is between can't be tested.
    """
    low = 0
    while len(candidates) - low > 1:
        for length in _outwards(low, len(candidates)):
            outcome = test(frozenset(needed) | frozenset(candidates[:length]))
            if outcome is Outcome.FAILS:
                del candidates[length:]
                break
            if outcome is Outcome.PASSES:
                low = length
                break
        else:
            return None
    return low + 1


def _outwards(low: int, high: int) -> list[int]:
    """Numbers between the two, both left out: the middle, then its neighbours on either side."""
    middle = (low + high) // 2
    between = sorted(range(low + 1, high), key=lambda number: (abs(number - middle), number))
    return between[: PROBES + 1]


def _ddmin(left: list[int], test: Test) -> list[int]:
    """The algorithm of the paper: reduce to a subset, else to a complement, else cut finer."""
    parts = 2
    while len(left) > 1:
        pieces = _split(left, parts)
        failing = next((piece for piece in pieces if _fails(piece, test)), None)
        if failing is not None:
            left, parts = failing, 2
            continue
        rests = ([one for one in left if one not in set(piece)] for piece in pieces)
        failing = next((rest for rest in rests if parts > 2 and _fails(rest, test)), None)
        if failing is not None:
            left, parts = failing, max(parts - 1, 2)
        elif parts == len(left):
            break
        else:
            parts = min(2 * parts, len(left))
    return left


def _fails(changes: Sequence[int], test: Test) -> bool:
    return test(frozenset(changes)) is Outcome.FAILS


def _split(whole: list[int], parts: int) -> list[list[int]]:
    """Into parts of equal length, but for one."""
    bounds = [len(whole) * number // parts for number in range(parts + 1)]
    return [whole[start:end] for start, end in pairwise(bounds)]
