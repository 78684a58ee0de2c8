"""rpm's ndb databases are read as rpm reads them, and no damaged one breaks the reader.

Debian's rpm has no ndb. So `data/Packages.db` was made by rpm 4.18.0 built with `--enable-ndb`,
from the packages and the key of `test_packages.py`: both kernels installed and 6.1.0 erased again.
"""

import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import Package
from hacktree.common.objects.rpmndb import encode_ndb, ndb_headers
from hacktree.common.repository.packages import detect_packages, packages_of_headers

DATABASE = (Path(__file__).parent / "data" / "Packages.db").read_bytes()
PAGE, SLOT = 4096, 16
FIRST = 32
"""Where the first slot is."""

headers = st.lists(st.binary(max_size=60), max_size=6)


def slots(database: bytes) -> list[tuple[int, int, int]]:
    """Number, first block and blocks of each slot that is not free."""
    rows = struct.iter_unpack("<4sIII", database[FIRST:PAGE])
    return [row[1:] for row in rows if row[1]]


def test_what_rpm_wrote_is_read() -> None:
    assert packages_of_headers(ndb_headers(DATABASE)) == (
        Package("foo-data", "0:3-4.fc40", "noarch"),
        Package("kernel-core", "6.9.3-1", "noarch"),
        Package("libfoo", "1:2~rc1^git-4.fc40", "x86_64"),
    )
    assert len(list(ndb_headers(DATABASE))) == 4, "with the key"


def test_what_is_written_is_laid_out_as_rpm_does_it() -> None:
    """But for the hole that the erased kernel left, generations, and the checksums of these."""
    found = list(ndb_headers(DATABASE))
    written = encode_ndb(found)
    ours = slots(written)
    assert [blocks for _, _, blocks in ours] == [blocks for _, _, blocks in slots(DATABASE)]
    assert ours[0][1] * SLOT == PAGE
    assert len(written) == sum(ours[-1][1:]) * SLOT
    assert written[:8] == DATABASE[:8]
    assert written[PAGE - SLOT : PAGE] == DATABASE[PAGE - SLOT : PAGE], "a free slot"
    for (_, start, blocks), (_, start_of_rpm, _) in zip(ours, slots(DATABASE), strict=True):
        blob = written[start * SLOT : (start + blocks) * SLOT]
        of_rpm = DATABASE[start_of_rpm * SLOT : (start_of_rpm + blocks) * SLOT]
        assert blob[:4] == of_rpm[:4]
        assert blob[12:-12] == of_rpm[12:-12], "length, header and padding"
        assert blob[-8:] == of_rpm[-8:]


@given(headers)
def test_what_is_written_is_read_again(rows: list[bytes]) -> None:
    written = encode_ndb(rows)
    assert list(ndb_headers(written)) == rows
    assert written == encode_ndb(rows)
    generation = struct.unpack_from("<I", written, 8)[0]
    assert generation >= 1 << 31, "rpm counts from 1: an Index.db that is there is out of date"


def test_more_packages_than_one_page_has_slots_for() -> None:
    rows = [b"%d" % number for number in range(1000)]
    assert list(ndb_headers(encode_ndb(rows))) == rows


@given(st.integers(0, len(DATABASE) - 1))
def test_a_database_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(FormatError, match="ndb"):
        list(ndb_headers(DATABASE[:length]))


@given(st.sampled_from(slots(DATABASE)), st.data())
def test_a_damaged_header_is_refused_by_its_number(
    slot: tuple[int, int, int], data: st.DataObject
) -> None:
    number, start, blocks = slot
    at = start * SLOT + data.draw(st.integers(0, blocks * SLOT - 1))
    flipped = DATABASE[at] ^ data.draw(st.integers(1, 255))
    with pytest.raises(FormatError, match=f"package {number} is damaged"):
        list(ndb_headers(DATABASE[:at] + bytes([flipped]) + DATABASE[at + 1 :]))


@given(st.integers(0, PAGE - 1), st.binary(min_size=1, max_size=16))
def test_hostile_slots_raise_nothing_but_our_error(at: int, patch: bytes) -> None:
    hostile = DATABASE[:at] + patch + DATABASE[at + len(patch) :]
    try:
        total = sum(map(len, ndb_headers(hostile)))
    except FormatError:
        return
    assert total <= len(hostile)


def test_many_slots_that_lead_to_one_blob_are_refused() -> None:
    """They would be read as more bytes than the file has."""
    header = bytes(10_000)
    blob = struct.pack("<4sIII", b"BlbS", 1, 0, len(header)) + header
    blob += bytes(-(len(blob) + 12) % SLOT)
    blob += struct.pack("<II4s", zlib.adler32(blob), len(header), b"BlbE")
    blocks = len(blob) // SLOT
    rows = [struct.pack("<4sIII", b"Slot", n, PAGE // SLOT, blocks) for n in range(1, 255)]
    head = struct.pack("<4sIIII12x", b"RpmP", 0, 1, 1, 255)
    assert len(head) + SLOT * len(rows) == PAGE
    with pytest.raises(FormatError, match="holds more than it can"):
        next(ndb_headers(head + b"".join(rows) + blob))


@pytest.mark.parametrize("directory", ["usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"])
def test_a_tree_with_one_has_a_package_list(directory: str) -> None:
    def read(path: bytes, max_size: int) -> bytes | None:
        return DATABASE if path.decode() == f"{directory}/Packages.db" else None

    found = detect_packages(read)
    assert found is not None
    assert [one.name for one in found] == ["foo-data", "kernel-core", "libfoo"]
