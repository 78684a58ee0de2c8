"""Huffman codes of one deflate block as zlib, gzip(1) and zip(1) choose them (their trees.c).

Which of several optimal trees they find depends on the order inside their heap, so it is kept.
Alphabets have at most 286 symbols: plain Python is enough here.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

BIT_LENGTH_ORDER: Final = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
"""The order in which a block's header gives the lengths of the codes for code lengths."""


class Code(msgspec.Struct, frozen=True):
    """Bits of each symbol's code, and the highest symbol that has one."""

    lengths: tuple[int, ...]
    max_symbol: int


class _Heap:
    """A heap of nodes by (frequency, depth), smallest first; index 0 is unused."""

    def __init__(self, nodes: list[int], keys: list[tuple[int, int]]) -> None:
        self.nodes = [0, *nodes]
        self.keys = keys
        for index in range(len(nodes) // 2, 0, -1):
            self.sift(index)

    def sift(self, index: int) -> None:
        """Move the node at `index` down to its place."""
        nodes, keys, last = self.nodes, self.keys, len(self.nodes) - 1
        node = nodes[index]
        child = 2 * index
        while child <= last:
            if child < last and keys[nodes[child + 1]] <= keys[nodes[child]]:
                child += 1
            if keys[node] <= keys[nodes[child]]:
                break
            nodes[index] = nodes[child]
            index = child
            child *= 2
        nodes[index] = node

    def pop(self) -> int:
        """Take out the smallest node."""
        top, last = self.nodes[1], self.nodes.pop()
        if len(self.nodes) > 1:
            self.nodes[1] = last
            self.sift(1)
        return top

    def replace(self, node: int) -> None:
        """Put `node` in the place of the smallest."""
        self.nodes[1] = node
        self.sift(1)


def build_code(frequencies: Sequence[int], max_length: int) -> Code:
    """The code for these frequencies, none longer than `max_length` bits; at least two symbols."""
    count = len(frequencies)
    leaves = [symbol for symbol in range(count) if frequencies[symbol]]
    max_symbol = leaves[-1] if leaves else -1
    keys = [(frequency, 0) for frequency in frequencies]
    while len(leaves) < 2:
        max_symbol, forced = (max_symbol + 1, max_symbol + 1) if max_symbol < 2 else (max_symbol, 0)
        leaves.append(forced)
        keys[forced] = (1, 0)
    heap = _Heap(leaves, keys)
    parents: dict[int, int] = {}
    merged: list[int] = []
    while len(heap.nodes) > 2:
        first = heap.pop()
        second = heap.nodes[1]
        node = len(keys)
        keys.append((keys[first][0] + keys[second][0], max(keys[first][1], keys[second][1]) + 1))
        parents[first] = parents[second] = node
        merged += [first, second]
        heap.replace(node)
    return Code(_bounded_lengths(merged, parents, count, max_length, len(keys) - 1), max_symbol)


def _bounded_lengths(
    merged: list[int],
    parents: dict[int, int],
    count: int,
    max_length: int,
    root: int,
) -> tuple[int, ...]:
    """gen_bitlen: depths from the root down, then overlong codes shortened at others' cost."""
    depths = {root: 0}
    totals = [0] * (max_length + 1)
    overflow = 0
    for node in merged[::-1]:
        depth = depths[parents[node]] + 1
        if depth > max_length:
            depth = max_length
            overflow += 1
        depths[node] = depth
        if node < count:
            totals[depth] += 1
    if overflow == 0:
        return tuple(depths.get(symbol, 0) for symbol in range(count))
    while overflow > 0:
        bits = max_length - 1
        while totals[bits] == 0:
            bits -= 1
        totals[bits] -= 1
        totals[bits + 1] += 2
        totals[max_length] -= 1
        overflow -= 2
    # The rarest leaves, which were merged first, take the longest codes.
    lengths = [0] * count
    rarest = (node for node in merged if node < count)
    for bits in range(max_length, 0, -1):
        for _ in range(totals[bits]):
            lengths[next(rarest)] = bits
    return tuple(lengths)


def run_lengths(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """The code lengths of one alphabet as (symbol, value of its extra bits) of the third code."""
    result: list[tuple[int, int]] = []
    previous = -1
    index = 0
    while index < len(lengths):
        length = lengths[index]
        run = 1
        limit = 138 if length == 0 else 6 + (length != previous)
        while index + run < len(lengths) and lengths[index + run] == length and run < limit:
            run += 1
        result += _run(length, run, previous)
        previous = length
        index += run
    return result


def _run(length: int, run: int, previous: int) -> list[tuple[int, int]]:
    if length == 0:
        if run < 3:
            return [(0, 0)] * run
        return [(17, run - 3)] if run <= 10 else [(18, run - 11)]
    head = [] if length == previous else [(length, 0)]
    run -= len(head)
    if run < 3:
        return head + [(length, 0)] * run
    return [*head, (16, run - 3)]
