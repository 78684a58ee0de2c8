"""Object ids: sha256, and one way to write one."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.strategies import object_ids
from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.objects.ids import EMPTY_FILE_ID, ObjectId, hash_bytes, parse_object_id


@given(st.binary())
def test_an_id_is_what_sha256sum_prints(data: bytes) -> None:
    """Anybody can verify a file object with a stock tool."""
    assert hash_bytes(data).hex() == hashlib.sha256(data).hexdigest()
    assert hash_bytes(memoryview(data)) == hash_bytes(data)


def test_the_empty_file_has_the_known_id() -> None:
    """Frozen: files with this id are never hard links."""
    assert EMPTY_FILE_ID.hex() == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


@given(object_ids)
def test_an_id_survives_being_written_down(object_id: ObjectId) -> None:
    """64 digits give back the same 32 bytes."""
    assert parse_object_id(object_id.hex()) == object_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 63,
        "a" * 65,
        "A" * 64,
        "g" * 64,
        "a" * 64 + "\n",
        " " + "a" * 63,
        "0x" + "a" * 62,
        "\N{FULLWIDTH DIGIT ONE}" * 64,
        "../" + "a" * 61,
    ],
)
def test_nothing_else_is_an_id(text: str) -> None:
    """An id becomes a file name, so exactly one spelling is let in."""
    with pytest.raises(NameInvalidError):
        parse_object_id(text)
