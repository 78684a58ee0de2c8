"""Messages of a push: one encoding each, bounded, and refused whole when they are wrong."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.push.framing import ObjectKey, ObjectKind
from hacktree.common.push.messages import (
    BATCH_ANSWER,
    FINISH_ANSWER,
    FINISH_REQUEST,
    MAX_IDS,
    MISSING_ANSWER,
    MISSING_REQUEST,
    OPEN_ANSWER,
    OPEN_REQUEST,
    MissingAnswer,
    MissingRequest,
    OpenRequest,
    ask_about,
    pack_bits,
    select_missing,
)
from hacktree.common.push.refusals import Refusal, decode_refusal, encode_refusal

CODECS: list[Codec[Any]] = [
    OPEN_REQUEST,
    OPEN_ANSWER,
    MISSING_REQUEST,
    MISSING_ANSWER,
    BATCH_ANSWER,
    FINISH_REQUEST,
    FINISH_ANSWER,
]
KEYS = st.builds(
    ObjectKey,
    st.sampled_from(ObjectKind),
    st.binary(min_size=32, max_size=32).map(ObjectId),
)


@given(st.lists(st.tuples(KEYS, st.booleans()), max_size=200, unique_by=lambda pair: pair[0]))
def test_what_is_missing_survives_the_journey(pairs: list[tuple[ObjectKey, bool]]) -> None:
    lacking = {key for key, is_missing in pairs if is_missing}
    request, asked = ask_about([key for key, _ in pairs])
    received = MISSING_REQUEST.decode(MISSING_REQUEST.encode(request))
    bits = pack_bits(key in lacking for key in received.objects())
    answer = MISSING_ANSWER.decode(MISSING_ANSWER.encode(MissingAnswer(1, bits)))
    assert set(select_missing(asked, answer)) == lacking


def test_the_most_ids_fit_and_one_more_does_not() -> None:
    most = bytes(32 * (MAX_IDS - 1))
    request = MissingRequest(1, bytes(32), most)
    assert len(list(MISSING_REQUEST.decode(MISSING_REQUEST.encode(request)).objects())) == MAX_IDS
    assert len(pack_bits([True] * MAX_IDS)) == MAX_IDS // 8
    with pytest.raises(FormatError, match="more than"):
        MissingRequest(1, bytes(64), most)


@pytest.mark.parametrize(
    ("metas", "files"), [(bytes(31), b""), (b"", bytes(33)), (bytes(16), bytes(16))]
)
def test_a_list_that_ends_within_an_id_is_refused(metas: bytes, files: bytes) -> None:
    with pytest.raises(FormatError, match="within"):
        MissingRequest(1, metas, files)


@pytest.mark.parametrize("bits", [b"", b"\x01\x00", b"\x08", b"\xff"])
def test_an_answer_about_another_list_is_refused(bits: bytes) -> None:
    """Too short, too long, or with bits for objects that nobody asked about."""
    asked = [ObjectKey(ObjectKind.META, ObjectId(bytes([n]) * 32)) for n in range(3)]
    with pytest.raises(FormatError, match="bits"):
        select_missing(asked, MissingAnswer(1, bits))


@pytest.mark.parametrize("expected", [b"\0", bytes(31)])
def test_an_expected_head_is_an_id_or_nothing(expected: bytes) -> None:
    with pytest.raises(FormatError, match="expected head"):
        OpenRequest(1, "builds", expected, b"commit")


@pytest.mark.parametrize("codec", CODECS)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(codec: Codec[Any], data: bytes) -> None:
    try:
        message = codec.decode(data)
    except FormatError:
        return
    assert codec.encode(message) == data


@given(st.builds(Refusal, st.text(), st.text(), st.text(), st.text()))
def test_a_refusal_is_read_as_it_was_written(refusal: Refusal) -> None:
    assert decode_refusal(encode_refusal(refusal)) == refusal


def test_a_refusal_of_a_later_server_is_understood() -> None:
    data = b'{"error": {"code": "new", "message": "why", "extra": 1}, "more": []}'
    assert decode_refusal(data) == Refusal("new", "why")


@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b'{"error": 1}', b"\xff", b"[" * 5000])
def test_what_is_no_refusal_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_refusal(data)
