"""A64 code: where immediates stand in words, what refers to what, and deltas of real libraries.

Words are assembled by hand from the Arm Architecture Reference Manual, C6.2 "Alphabetical list of
A64 base instructions"; the comments name the instruction.
"""

import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hacktree.common.delta import aarch64
from hacktree.common.delta.codec import decode_entry, encode_delta
from hacktree.common.delta.elf import parse_elf
from hacktree.common.delta.elfdelta import encode_elf
from hacktree.common.delta.encodings import Encoding, wrap
from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind
from hacktree.common.delta.frame import entry_size
from hacktree.common.delta.plain import encode_plain
from hacktree.common.delta.references import Reach
from hacktree.common.delta.shared import Shared
from support.aarch64_elves import DATA, NOP, TEXT, make_elf, program
from support.elves import mutate

SHARED = Shared()

IMMEDIATES = [
    (Encoding.BRANCH26, 0x94000001, 1),  # bl .+4
    (Encoding.BRANCH26, 0x97FFFFFF, -1),  # bl .-4
    (Encoding.BRANCH26, 0x15FFFFFF, (1 << 25) - 1),  # b .+134217724
    (Encoding.BRANCH26, 0x16000000, -(1 << 25)),  # b .-134217728
    (Encoding.BRANCH19, 0x54000040, 2),  # b.eq .+8
    (Encoding.BRANCH19, 0x54FFFFE1, -1),  # b.ne .-4
    (Encoding.BRANCH19, 0xB47FFFE3, (1 << 18) - 1),  # cbz x3, .+1048572
    (Encoding.BRANCH19, 0x35800001, -(1 << 18)),  # cbnz w1, .-1048576
    (Encoding.BRANCH19, 0x58000081, 4),  # ldr x1, .+16
    (Encoding.BRANCH14, 0x36180025, 1),  # tbz w5, #3, .+4
    (Encoding.BRANCH14, 0xB71FFFE5, -1),  # tbnz x5, #35, .-4
    (Encoding.BRANCH14, 0x3603FFE0, (1 << 13) - 1),  # tbz w0, #0, .+32764
    (Encoding.BRANCH14, 0x36040000, -(1 << 13)),  # tbz w0, #0, .-32768
    (Encoding.NEAR21, 0x30000000, 1),  # adr x0, .+1
    (Encoding.NEAR21, 0x70FFFFE1, -1),  # adr x1, .-1
    (Encoding.NEAR21, 0x707FFFE1, (1 << 20) - 1),  # adr x1, .+1048575
    (Encoding.PAGE21, 0xB0000010, 1),  # adrp x16, .+4096
    (Encoding.PAGE21, 0xF0FFFFE2, -1),  # adrp x2, .-4096
    (Encoding.PAGE21, 0x90800000, -(1 << 20)),  # adrp x0, .-4294967296
    (Encoding.LOW12, 0xF9400611, 1),  # ldr x17, [x16, #8]
    (Encoding.LOW12, 0x913FFE10, -1),  # add x16, x16, #4095: modulo 2**12
]


@pytest.mark.parametrize(("encoding", "word", "value"), IMMEDIATES)
def test_immediates(encoding: Encoding, word: int, value: int) -> None:
    words = np.array([word], np.int64)
    assert encoding.extract(words).tolist() == [value]
    cleared = encoding.insert(words, np.zeros(1, np.int64))
    assert encoding.extract(cleared).tolist() == [0]
    assert encoding.insert(cleared, np.array([value])).tolist() == [word]


@pytest.mark.parametrize("encoding", Encoding)
def test_values_wrap_and_leave_other_bits(encoding: Encoding) -> None:
    chance = np.random.default_rng(1)
    words = chance.integers(0, 1 << 32, 1000)
    values = chance.integers(-(1 << 40), 1 << 40, 1000)
    written = encoding.insert(words, values)
    bits = encoding.bits(4)
    assert np.array_equal(wrap(encoding.extract(written), bits), wrap(values, bits))
    if encoding is not Encoding.WHOLE:
        assert np.array_equal(encoding.insert(written, encoding.extract(words)), words)
        assert int(np.bitwise_or.reduce(written ^ words)).bit_count() == bits


def scan(words: list[int]) -> list[tuple[int, int, Encoding, int]]:
    """(number of the word, target, encoding, scale) of every reference in code at `TEXT`."""
    elf = parse_elf(np.frombuffer(make_elf(words), np.uint8))
    text = elf.sections[1]
    return sorted(
        ((int(at) - text.offset) // 4, int(target), group.encoding, group.scale)
        for group in aarch64.code_references(elf, text, Reach.of(elf))
        for at, target in zip(group.at, group.target, strict=True)
    )


RET = 0xD65F03C0
ADRP = 0x90000100  # adrp x0, .+131072: the page of DATA
ADD = 0x91004001  # add x1, x0, #16
LDR = 0xF9400802  # ldr x2, [x0, #16]

PAGE = (0, DATA + 16, Encoding.PAGE21, 1)


def test_branches_and_literals() -> None:
    words = [
        0x94000003,  # bl .+12
        0x54000040,  # b.eq .+8
        0xB4000023,  # cbz x3, .+4
        0x37180025,  # tbnz w5, #3, .+4
        0x58000021,  # ldr x1, .+4
        0x10000020,  # adr x0, .+4
        0x14000000,  # b .: not relocated yet
        0x97FFFFF0,  # bl .-64: leaves the section
        NOP,
    ]
    assert scan(words) == [
        (0, TEXT + 12, Encoding.BRANCH26, 4),
        (1, TEXT + 12, Encoding.BRANCH19, 4),
        (2, TEXT + 12, Encoding.BRANCH19, 4),
        (3, TEXT + 16, Encoding.BRANCH14, 4),
        (4, TEXT + 20, Encoding.BRANCH19, 4),
        (5, TEXT + 24, Encoding.NEAR21, 1),
    ]


def test_pairs() -> None:
    assert scan([ADRP, ADD]) == [PAGE, (1, DATA + 16, Encoding.LOW12, 1)]
    assert scan([ADRP, NOP, LDR]) == [PAGE, (2, DATA + 16, Encoding.LOW12, 8)]
    # One page for several: each is its own reference, the page goes with the nearest.
    strb, ldr_q = 0x39001C01, 0x3DC00803  # strb w1, [x0, #7]; ldr q3, [x0, #32]
    assert scan([ADRP, ADD, strb, ldr_q]) == [
        PAGE,
        (1, DATA + 16, Encoding.LOW12, 1),
        (2, DATA + 7, Encoding.LOW12, 1),
        (3, DATA + 32, Encoding.LOW12, 16),
    ]


@pytest.mark.parametrize(
    "between",
    [
        [0xD2800020],  # mov x0, #1: the register is lost
        [0xF9400000],  # ldr x0, [x0]: so it is, after it was used
        [0x97FFFFFF],  # bl .-4: X0 is the callee's
        [0xD63F0060],  # blr x3
        [RET],
        [0x14000002],  # b .+8
        [NOP] * 16,  # too far
    ],
    ids=lambda words: f"{words[0]:08X}",
)
def test_what_ends_a_page(between: list[int]) -> None:
    found = scan([ADRP, *between, LDR])
    assert (len(between) + 1, DATA + 16, Encoding.LOW12, 8) not in found
    assert found[0][0] == 0
    assert found[0][2] is Encoding.PAGE21
    assert found[0][1] == DATA


def test_calls_keep_some_registers() -> None:
    adrp, call, ldr = ADRP | 19, 0x94000001, LDR | 19 << 5  # x19
    assert (2, DATA + 16, Encoding.LOW12, 8) in scan([adrp, call, ldr])


def test_offsets_beyond_the_page_are_no_halves() -> None:
    assert scan([ADRP, 0xF9480002]) == [(0, DATA, Encoding.PAGE21, 1)]  # ldr x2, [x0, #4096]


def decode(entry: EncodedEntry, old: bytes, size: int) -> bytes:
    output = bytearray(size)
    parts = {kind: memoryview(part) for kind, part in entry.parts.items() if part}
    decode_entry(entry.kind, parts, memoryview(old), memoryview(output), SHARED)
    return bytes(output)


def both_ways(old: bytes, new: bytes) -> tuple[EncodedEntry, EncodedEntry]:
    """The ELF-aware and the plain entry."""
    before, after = np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8)
    aware = encode_elf(parse_elf(before), parse_elf(after))
    assert aware is not None
    return aware, encode_plain(before, after)


def test_moved_code_and_data_are_predicted() -> None:
    old, new = program(0), program(1)
    aware, plain = both_ways(old, new)
    assert decode(aware, old, len(new)) == new
    assert len(aware.parts[StreamKind.REFERENCE_VALUES]) <= 40
    assert entry_size(aware) < 0.2 * entry_size(plain)


def test_files_that_lie() -> None:
    old, new = program(0), program(1)
    for seed in range(40):
        chance = random.Random(seed)
        one, other = mutate(old, chance), mutate(new, chance)
        entry = encode_delta(one, other, SHARED)
        assert decode(entry, one, len(other)) == other


def _wheel_member(requirement: str, suffix: str, directory: Path) -> bytes:
    """A file of an AArch64 wheel from the package index that pip is configured for."""
    platforms = ["--platform", "manylinux_2_17_aarch64", "--platform", "manylinux2014_aarch64"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += [*platforms, "--python-version", "3.12", "-d", str(directory), requirement]
    try:
        subprocess.run(command, check=True, timeout=120, capture_output=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"pip cannot download the AArch64 wheel of {requirement}")
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(suffix)]
        return archive.read(name)


def test_real_libraries(tmp_path: Path) -> None:
    old, new = (
        _wheel_member(f"rpds-py=={version}", ".so", tmp_path / version)
        for version in ("0.28.0", "0.29.0")
    )
    aware, plain = both_ways(old, new)
    assert entry_size(aware) < 0.8 * entry_size(plain)
    assert decode(aware, old, len(new)) == new
    chosen, again = (encode_delta(old, new, SHARED) for _ in range(2))
    assert chosen.kind is EntryKind.ELF
    assert chosen.parts == again.parts == aware.parts
