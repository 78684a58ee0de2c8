"""Promise: what an encoder chooses gives the object back, and is worth its bytes."""

import random

import pytest

from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind
from hacktree.common.delta.shared import Shared
from hacktree.common.repository import encoding
from hacktree.common.repository.encoding import codec_version, decodes, encode_best

TEXT = b"".join(b"line %d of a text\n" % number for number in range(3000))


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def test_a_small_change_is_a_delta() -> None:
    new = TEXT.replace(b"777", b"888")
    chosen = encode_best(TEXT, new, Shared())
    assert chosen.entry.kind is EntryKind.DELTA
    assert chosen.estimate < 1000
    assert decodes(chosen.entry, TEXT, new, Shared())


def test_a_delta_that_saves_nothing_is_the_whole() -> None:
    chosen = encode_best(noise(1, 20_000), TEXT, Shared())
    assert chosen.entry.kind is EntryKind.FULL


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of files that a delta is searched for; none is found."""
    sizes: list[int] = []

    def search(old: bytes, new: bytes, shared: Shared) -> EncodedEntry:
        sizes.append(len(new))
        return encode_nothing()

    monkeypatch.setattr(encoding, "encode_delta", search)
    return sizes


def test_dense_files_are_searched_only_if_something_recurs(searched: list[int]) -> None:
    """A kernel image, compressed anew, cost twenty seconds for nothing."""
    other = encode_best(noise(1, 1_200_000), noise(2, 1_200_000), Shared())
    assert other.entry.kind is EntryKind.FULL
    assert searched == []
    encode_best(noise(1, 1_200_000), noise(1, 1_200_000)[600_000:] + noise(3, 600_000), Shared())
    assert searched == [1_200_000]


def test_large_files_are_searched_only_if_the_old_one_helps(searched: list[int]) -> None:
    old, other = (noise(seed, 300_000) * 60 + TEXT * 200 for seed in (1, 2))
    assert encode_best(old, other, Shared()).entry.kind is EntryKind.FULL
    assert searched == []
    encode_best(old, old[:-9_000_000] + other[:9_000_000], Shared())
    assert searched == [len(old)]


def encode_nothing() -> EncodedEntry:
    return EncodedEntry(EntryKind.DELTA, {StreamKind.EXTRA: b"wrong"}, 1)


def test_a_codec_that_is_wrong_costs_bytes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "encode_delta", lambda *args: encode_nothing())
    chosen = encode_best(TEXT, TEXT + b"more", Shared())
    assert chosen.entry.kind is EntryKind.FULL


def test_the_codec_s_version_is_that_of_its_code() -> None:
    assert len(codec_version()) == 32
    assert codec_version() == codec_version()
