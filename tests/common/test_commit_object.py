"""What a commit may say. How every object is encoded: test_codec.py.

test_commit.py is about making commits.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given

from common.strategies import commits
from hacktree.common.objects.commit import (
    MAX_ENTRIES,
    Commit,
    RootDirectory,
    Totals,
    commit_id,
    decode_commit,
    encode_commit,
)
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import hash_bytes

ROOT = RootDirectory(hash_bytes(b"tree"), 100, 0o755, 0, 0, ())
COMMIT = Commit(
    format=1,
    root=ROOT,
    parents=(),
    sequence=1,
    branch="builds",
    architecture="x86_64",
    time=1_700_000_000,
    version="1",
    subject="First",
    body="",
    totals=Totals(1, 2, 3, 4),
    metadata={},
)
FIELDS = COMMIT.__struct_fields__


def _wire(**changes: object) -> bytes:
    """What a peer that checks nothing would send: `COMMIT` with other values in some fields."""
    values: dict[str, Any] = {name: getattr(COMMIT, name) for name in FIELDS} | changes
    return msgspec.msgpack.encode(["commit", *values.values()], order="deterministic")


def test_the_unchanged_wire_form_is_valid() -> None:
    """So that each refusal below is for its change alone."""
    assert decode_commit(_wire()) == COMMIT


@given(commits())
def test_the_id_is_the_hash_of_the_encoding(commit: Commit) -> None:
    """Whoever holds the bytes can check the id."""
    assert commit_id(commit) == hash_bytes(encode_commit(commit))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 0},
        {"format": 2},
        {"root": ["short", 1, 0, 0, 0, []]},
        {"root": [bytes(31), 1, 0, 0, 0, []]},
        {"root": [bytes(32), 0, 0, 0, 0, []]},
        {"root": [bytes(32), 10_000_000_000, 0, 0, 0, []]},
        {"root": [bytes(32), 2**63 - 1, 0, 0, 0, []]},
        {"root": [bytes(32), 2**64 - 1, 0, 0, 0, []]},
        {"root": [bytes(32), 1, 0o10000, 0, 0, []]},
        {"root": [bytes(32), 1, 0, 2**32 - 1, 0, []]},
        {"root": [bytes(32), 1, 0, 0, 2**32 - 1, []]},
        {"root": [bytes(32), 1, 0, 0, 0, [["security.selinux", b"label"]]]},
        {"root": [bytes(32), 1, 0, 0, 0, [["user.b", b""], ["user.a", b""]]]},
        {"root": [bytes(32), 1, 0, 0, 0]},
        {"parents": [bytes(32)]},
        {"parents": [bytes(31)], "sequence": 2},
        {"parents": [bytes(32)] * 17, "sequence": 2},
        {"sequence": 0},
        {"sequence": -1},
        {"sequence": 2},
        {"parents": [bytes(32)], "sequence": (1 << 40) + 1},
        {"branch": ""},
        {"branch": ".."},
        {"branch": "a/../b"},
        {"branch": "/a"},
        {"branch": "history"},
        {"branch": "a" * 201},
        {"architecture": "X86"},
        {"architecture": "a b"},
        {"architecture": "a\n"},
        {"architecture": "a" * 65},
        {"time": -1},
        {"time": 1.5},
        {"time": (1 << 40) + 1},
        {"version": "1\n2"},
        {"version": "1\0"},
        {"version": "a" * 1001},
        {"subject": "one\ntwo"},
        {"subject": "a" * 1001},
        {"body": "a" * 100_001},
        {"totals": [0, 0, 0]},
        {"totals": [-1, 0, 0, 0]},
        {"totals": [MAX_ENTRIES + 1, 0, 0, 0]},
        {"totals": [MAX_ENTRIES, 1, 0, 0]},
        {"totals": [0, 0, 0, (1 << 50) + 1]},
        {"totals": [0, 0, 0, 2**63]},
        {"metadata": []},
        {"metadata": {"a": None}},
        {"metadata": {"a": 1.0}},
        {"metadata": {"a": b""}},
        {"metadata": {"a": {}}},
        {"metadata": {"a": [1]}},
        {"metadata": {"a": [[["deeper"]]]}},
        {"metadata": {"a" * 1001: ""}},
    ],
    ids=lambda changes: repr(changes)[:60],
)
def test_values_out_of_bounds_are_refused(changes: dict[str, Any]) -> None:
    """Each field has its type and its limits, and none is taken on trust."""
    with pytest.raises(FormatError):
        decode_commit(_wire(**changes))


@pytest.mark.parametrize("field", FIELDS)
def test_no_field_can_be_missing(field: str) -> None:
    """Fields are known by their place: nothing has a default."""
    values = [getattr(COMMIT, name) for name in FIELDS if name != field]
    with pytest.raises(FormatError):
        decode_commit(msgspec.msgpack.encode(["commit", *values]))


def test_no_field_can_be_added() -> None:
    """What a reader doesn't know it refuses; a newer format says so in its version."""
    with pytest.raises(FormatError):
        decode_commit(_wire(extra=0))


@pytest.mark.parametrize(
    "pairs",
    [
        b"\x82\xa1b\x01\xa1a\x01",
        b"\x81\xc4\x01a\x01",
        b"\x81\x01\x01",
        b"\x82\xa1a\x01\xa1a\x01",
        b"\x82\xa1a\x01\xa1a\x02",
        # U+10000 before U+FFFF: the order of UTF-16, not of UTF-8.
        b"\x82\xa4\xf0\x90\x80\x80\x01\xa3\xef\xbf\xbf\x01",
        # "b" before "aa": shorter first is another canonical order, not ours.
        b"\x82\xa1b\x01\xa2aa\x01",
    ],
    ids=["unsorted", "bin", "integer", "twice", "twice, differing", "utf-16 order", "by length"],
)
def test_metadata_keys_are_sorted_and_unique(pairs: bytes) -> None:
    """One map has one encoding: keys in ascending order of their UTF-8 bytes."""
    data = _wire()
    assert data.endswith(b"\x80")
    with pytest.raises(FormatError):
        decode_commit(data[:-1] + pairs)


def test_the_limits_themselves_are_allowed() -> None:
    """The greatest value of every field."""
    greatest = msgspec.structs.replace(
        COMMIT,
        root=RootDirectory(hash_bytes(b""), 64 << 20, 0o7777, 2**32 - 2, 2**32 - 2, ()),
        parents=tuple(hash_bytes(bytes([i])) for i in range(16)),
        sequence=1 << 40,
        branch="a" * 200,
        architecture="a" * 64,
        time=1 << 40,
        version="v" * 1000,
        subject="s" * 1000,
        body="b" * 100_000,
        totals=Totals(MAX_ENTRIES - 2, 1, 1, 1 << 50),
        metadata={"k" * 1000: "v" * 100_000, "least": -(2**63), "most": 2**64 - 1, "": []},
    )
    assert decode_commit(encode_commit(greatest)) == greatest


@pytest.mark.parametrize(
    ("parents", "sequence"), [((), 2), ((hash_bytes(b"parent"),), 1)], ids=["none", "first"]
)
def test_a_first_commit_has_no_parent_and_only_it(
    parents: tuple[bytes, ...], sequence: int
) -> None:
    """A history that claims to begin can't go on, and one that goes on can't claim to begin."""
    with pytest.raises(FormatError, match="if and only if"):
        msgspec.structs.replace(COMMIT, parents=parents, sequence=sequence)
