"""The journal of a push: what it says is on disk is on disk, whatever a power cut left of it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.objects.ids import ObjectId
from hacktree.common.push.framing import ObjectKey, ObjectKind
from hacktree.server.push.journal import StagedObject, append_to_journal, read_journal

LENGTH = 1 + 32 + 8 + 8 + 4
STAGED = st.builds(
    StagedObject,
    st.builds(
        ObjectKey,
        st.sampled_from(ObjectKind),
        st.binary(min_size=32, max_size=32).map(ObjectId),
    ),
    st.integers(1, 1 << 40),
    st.integers(0, 1 << 40),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each example writes anew."""
    return tmp_path_factory.mktemp("journal") / "journal"


@given(st.lists(st.lists(STAGED, max_size=4), max_size=4))
def test_records_are_read_in_order(path: Path, batches: list[list[StagedObject]]) -> None:
    path.unlink(missing_ok=True)
    written: list[StagedObject] = []
    for batch in batches:
        append_to_journal(path, len(written), batch)
        written += batch
    assert read_journal(path) == written


@given(st.lists(STAGED, min_size=1, max_size=5), st.data())
def test_nothing_from_the_first_damaged_record_on_is_believed(
    path: Path, staged: list[StagedObject], data: st.DataObject
) -> None:
    """And what is added afterwards takes its place."""
    path.unlink(missing_ok=True)
    append_to_journal(path, 0, staged)
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    sound = read_journal(path)
    assert sound == staged[: place // LENGTH]
    append_to_journal(path, len(sound), staged[:1])
    assert read_journal(path) == [*sound, staged[0]]


@given(st.lists(STAGED, min_size=1, max_size=5), st.integers(0, 300))
def test_a_record_that_was_cut_short_is_none(
    path: Path, staged: list[StagedObject], length: int
) -> None:
    path.unlink(missing_ok=True)
    append_to_journal(path, 0, staged)
    os.truncate(path, min(length, path.stat().st_size))
    assert read_journal(path) == staged[: length // LENGTH]


@given(st.integers(1, 500))
def test_zeros_are_no_records(path: Path, count: int) -> None:
    """What some file systems show of blocks that never reached the disk."""
    path.write_bytes(bytes(count))
    assert read_journal(path) == []
