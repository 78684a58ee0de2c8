"""Files and entries that lie: encoders always give an entry that decodes, decoders FormatError.

Seeds are fixed and counts small, so that it stays within seconds; HACKTREE_FUZZ_SECONDS goes on
with new seeds for as long.
"""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hacktree.common.delta.btf import find_words
from hacktree.common.delta.codec import decode_entry, encode_delta
from hacktree.common.delta.copies import Copies, EncodedCopies, decode_copies, encode_copies
from hacktree.common.delta.elf import NotElfError, parse_elf
from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.errors import FormatError
from support.elves import VARIANTS, build, mutate

SHARED = Shared()
Pairs = dict[str, tuple[bytes, bytes]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    directory: Path = tmp_path_factory.mktemp("elves")
    return {variant: build(variant, directory) for variant in VARIANTS}


def decode(entry: EncodedEntry, old: bytes, size: int) -> bytes:
    output = bytearray(size)
    parts = {kind: memoryview(part) for kind, part in entry.parts.items() if part}
    decode_entry(entry.kind, parts, memoryview(old), memoryview(output), SHARED)
    return bytes(output)


def seeds(count: int) -> Iterator[int]:
    end = time.monotonic() + float(os.environ.get("HACKTREE_FUZZ_SECONDS", "0"))
    seed = 0
    while seed < count or time.monotonic() < end:
        yield seed
        seed += 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_real_files_are_elf_aware_and_exact(pairs: Pairs, variant: str) -> None:
    old, new = pairs[variant]
    entry = encode_delta(old, new, SHARED)
    if variant != "object":
        # What a small object saves is not worth the time that its references take.
        assert entry.kind is EntryKind.ELF
    assert decode(entry, old, len(new)) == new


def test_files_that_lie_still_give_entries_that_decode(pairs: Pairs) -> None:
    for seed in seeds(20):
        chance = random.Random(seed)
        old, new = pairs[chance.choice(list(pairs))]
        side = chance.randrange(3)
        old = mutate(old, chance) if side != 1 else old
        new = mutate(new, chance) if side != 0 else new
        assert decode(encode_delta(old, new, SHARED), old, len(new)) == new, seed


def damaged(part: bytes, chance: random.Random) -> bytes:
    broken = bytearray(part)
    kind = chance.randrange(3)
    at = chance.randrange(len(broken))
    if kind == 0:
        broken[at] = chance.randrange(256)
    elif kind == 1:
        del broken[at:]
    else:
        broken[at:at] = b"\xff" * chance.randrange(1, 9) + b"\x01"
    return bytes(broken)


def test_entries_that_lie_raise_nothing_but_format_errors(pairs: Pairs) -> None:
    old, new = pairs["library"]
    entry = encode_delta(old, new, SHARED)
    present = [kind for kind, part in entry.parts.items() if part]
    refused = 0
    for seed in seeds(150):
        chance = random.Random(seed)
        kind, other = chance.choice(present), chance.choice(present)
        parts = {**entry.parts, kind: damaged(entry.parts[chance.choice([kind, other])], chance)}
        base = mutate(old, chance) if chance.random() < 0.3 else old
        try:
            decode(EncodedEntry(entry.kind, parts, 0), base, len(new))
        except FormatError:
            refused += 1
    assert refused > 50


def test_addresses_of_a_kernel_do_not_overflow(pairs: Pairs) -> None:
    old, new = (bytearray(file) for file in pairs["library"])
    for file in (old, new):
        table = int.from_bytes(file[40:48], "little")
        file[table + 64 + 16 : table + 64 + 24] = (0xFFFFFFFF80000000).to_bytes(8, "little")
    entry = encode_delta(bytes(old), bytes(new), SHARED)
    assert decode(entry, bytes(old), len(new)) == bytes(new)


def test_sections_that_cover_the_file_again_and_again_are_no_elf(pairs: Pairs) -> None:
    file = bytearray(pairs["library"][0])
    table = int.from_bytes(file[40:48], "little")
    for header in (table + 64, table + 128, table + 192):
        file[header + 24 : header + 40] = bytes(8) + len(file).to_bytes(8, "little")
    with pytest.raises(NotElfError):
        parse_elf(np.frombuffer(file, np.uint8))


def test_copies_of_single_bytes_are_refused() -> None:
    ones = np.ones(1000, np.int64)
    copies = Copies(np.arange(1000), np.zeros(1000, np.int64), ones)
    with pytest.raises(FormatError, match="fewer than 8"):
        decode_copies(encode_copies(copies), 10, 1000)


def test_the_least_integer_is_no_seek() -> None:
    seek = b"\xff" * 9 + b"\x01"
    with pytest.raises(FormatError, match="outside the old file"):
        decode_copies(EncodedCopies(b"\x08", b"\0", seek), 100, 100)


def test_type_information_with_items_without_number_is_none() -> None:
    words = np.full(100_000, (4 << 24) | 30_000, np.uint32)
    header = np.array([0x1EB9F, 24, 0, words.nbytes, words.nbytes, 0], np.uint32)
    section = np.concatenate([header, words]).view(np.uint8)
    _, types, names, _ = find_words([section])
    assert len(types) == len(names) == 0


def test_a_part_for_another_kind_is_refused() -> None:
    with pytest.raises(FormatError):
        decode(EncodedEntry(EntryKind.FULL, {StreamKind.CONTENT: b"ab"}, 0), b"", 3)
