"""Copies: disjoint, ascending, in range, and exact with what they leave; in bounded time."""

import random
import time

import numpy as np
import pytest

from hacktree.common.delta.codec import decode_entry
from hacktree.common.delta.matcher import find_copies
from hacktree.common.delta.plain import encode_plain
from hacktree.common.delta.shared import Shared


def check(old: bytes, new: bytes) -> None:
    before, after = np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8)
    copies = find_copies(before, after)
    assert np.all(copies.length >= 8)
    assert np.all(copies.new[1:] >= copies.new[:-1] + copies.length[:-1])
    assert np.all(copies.old >= 0)
    assert np.all(copies.old + copies.length <= len(old))
    assert np.all(copies.new >= 0)
    assert np.all(copies.new + copies.length <= len(new))
    entry = encode_plain(before, after)
    output = bytearray(len(new))
    parts = {kind: memoryview(part) for kind, part in entry.parts.items() if part}
    decode_entry(entry.kind, parts, memoryview(old), memoryview(output), Shared())
    assert output == new


def edited(seed: int) -> tuple[bytes, bytes]:
    chance = random.Random(seed)
    old = chance.randbytes(chance.randrange(1, 20_000))
    new = bytearray(old)
    for _ in range(chance.randrange(6)):
        at, size = chance.randrange(len(new) + 1), chance.randrange(3000)
        block = new[at : at + size]
        if chance.random() < 0.5:
            del new[at : at + size]
        there = chance.randrange(len(new) + 1)
        new[there:there] = chance.choice([bytes(block), bytes(size), chance.randbytes(size)])
    return old, bytes(new)


@pytest.mark.parametrize("seed", range(40))
def test_edits_and_moves_are_exact_both_ways(seed: int) -> None:
    old, new = edited(seed)
    check(old, new)
    check(new, old)


@pytest.mark.parametrize("pair", [(b"", b""), (b"", b"new" * 9), (b"old" * 9, b""), (b"a", b"b")])
def test_empty_files(pair: tuple[bytes, bytes]) -> None:
    check(*pair)


def test_long_runs_and_periods_take_no_time() -> None:
    start = time.process_time()
    check(bytes(2 << 20), b"x" + bytes((2 << 20) + 5) + b"y")
    assert time.process_time() - start < 4
    check(b"abc" * 20_000, b"x" + b"abc" * 19_000 + b"bca" * 500)
