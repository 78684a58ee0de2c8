"""The decision behind a conditional or partial GET, over all inputs; nginx agrees in
test_contract.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hacktree.server.conditions import (
    Conditions,
    NotModified,
    Part,
    PreconditionFailed,
    Unsatisfiable,
    Validators,
    Whole,
    decide,
)

FILE = Validators(mtime=1_700_000_000, size=1000)
SAME_SECOND = "Tue, 14 Nov 2023 22:13:20 GMT"

fields = st.none() | st.text(max_size=60) | st.from_regex(r"bytes=[0-9]{0,30}-[0-9]{0,30}")


def test_the_entity_tag_is_nginx_s() -> None:
    assert FILE.etag == '"6553f100-3e8"'
    assert FILE.last_modified == SAME_SECOND


@pytest.mark.parametrize(
    ("field", "decision"),
    [
        ("bytes=0-0", Part(0, 1)),
        ("BYTES=0-0", Part(0, 1)),
        ("bytes=999-", Part(999, 1000)),
        ("bytes=999-2000", Part(999, 1000)),
        ("bytes=-1", Part(999, 1000)),
        ("bytes=-5000", Part(0, 1000)),
        ("bytes=0-999", Part(0, 1000)),
        ("bytes=1000-", Unsatisfiable()),
        ("bytes=1000-1001", Unsatisfiable()),
        ("bytes=-0", Unsatisfiable()),
        ("bytes=5-4", Whole()),
        ("bytes=-", Whole()),
        ("bytes=", Whole()),
        ("bytes=a-b", Whole()),
        ("bytes=1-2-3", Whole()),
        ("bytes=0-0,2-2", Whole()),
        ("bytes=1.0-2", Whole()),
        ("bytes=+1-2", Whole()),
        ("bytes=٣-4", Whole()),
        ("items=0-1", Whole()),
        ("bytes=" + "9" * 5000 + "-", Whole()),
    ],
)
def test_ranges(field: str, decision: object) -> None:
    assert decide(Conditions(range=field), FILE) == decision


def test_an_empty_file_has_no_part() -> None:
    empty = Validators(mtime=0, size=0)
    for field in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        assert decide(Conditions(range=field), empty) == Unsatisfiable()
    assert decide(Conditions(), empty) == Whole()


@pytest.mark.parametrize(
    "date", [SAME_SECOND, "Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023"]
)
def test_all_three_spellings_of_a_date(date: str) -> None:
    """RFC 9110 5.6.7: a recipient must accept all three."""
    assert decide(Conditions(if_modified_since=date), FILE) == NotModified()
    newer = Validators(mtime=FILE.mtime + 1, size=FILE.size)
    assert decide(Conditions(if_modified_since=date), newer) == Whole()


@pytest.mark.parametrize(
    "date", ["yesterday", "", "Tue, 14 Nov 99999 22:13:20 GMT", "Tue, 14 Xyz 2023 22:13:20 GMT"]
)
def test_what_is_no_date_is_ignored(date: str) -> None:
    """RFC 9110 13.1.3 and 13.1.4: a recipient must ignore an invalid date."""
    assert decide(Conditions(if_modified_since=date), FILE) == Whole()
    assert decide(Conditions(if_unmodified_since=date), FILE) == Whole()
    assert decide(Conditions(if_range=date, range="bytes=0-0"), FILE) == Whole()


def test_precedence() -> None:
    """RFC 9110 13.2.2: If-Match, If-Unmodified-Since, If-None-Match, If-Modified-Since, Range."""
    etag = FILE.etag
    assert decide(Conditions(if_match='"x"', if_none_match=etag), FILE) == PreconditionFailed()
    assert decide(Conditions(if_match=etag, if_none_match=etag), FILE) == NotModified()
    assert decide(Conditions(if_match=f"W/{etag}"), FILE) == PreconditionFailed()
    assert decide(Conditions(if_match="*", range="bytes=0-0"), FILE) == Part(0, 1)
    kept = Conditions(if_match=etag, if_unmodified_since="Mon, 13 Nov 2023 22:13:20 GMT")
    assert decide(kept, FILE) == Whole()
    assert decide(Conditions(if_none_match=etag, range="bytes=0-0"), FILE) == NotModified()
    other = Conditions(if_none_match='"x"', if_modified_since=SAME_SECOND)
    assert decide(other, FILE) == Whole()


@given(
    if_match=fields,
    if_none_match=fields,
    if_modified_since=fields,
    if_unmodified_since=fields,
    if_range=fields,
    range_field=fields,
    size=st.integers(0, 2**63 - 1),
)
def test_any_field_gets_an_answer(
    if_match: str | None,
    if_none_match: str | None,
    if_modified_since: str | None,
    if_unmodified_since: str | None,
    if_range: str | None,
    range_field: str | None,
    size: int,
) -> None:
    """No exception, and never a byte that the file does not have."""
    conditions = Conditions(
        if_match=if_match,
        if_none_match=if_none_match,
        if_modified_since=if_modified_since,
        if_unmodified_since=if_unmodified_since,
        if_range=if_range,
        range=range_field,
    )
    decision = decide(conditions, Validators(mtime=FILE.mtime, size=size))
    if isinstance(decision, Part):
        assert 0 <= decision.start < decision.stop <= size


@given(
    st.from_regex(
        r"((Mon|Tue|Xyz),? )?[0-9]{0,4}[ -](Nov|Feb|X)[ -][0-9]{0,12} [0-9:]{0,12} ?"
        r"(GMT|EST|-0000|[+-][0-9]{4}|[+-]99999999)?"
    )
)
def test_any_near_date_gets_an_answer(date: str) -> None:
    for conditions in (Conditions(if_modified_since=date), Conditions(if_unmodified_since=date)):
        assert decide(conditions, FILE) in (Whole(), NotModified(), PreconditionFailed())


@given(first=st.integers(0, 1200), last=st.integers(0, 1200))
def test_a_range_is_the_slice_that_it_names(first: int, last: int) -> None:
    content = bytes(index % 251 for index in range(FILE.size))
    decision = decide(Conditions(range=f"bytes={first}-{last}"), FILE)
    if last < first:
        assert decision == Whole()
    elif first >= len(content):
        assert decision == Unsatisfiable()
    else:
        assert isinstance(decision, Part)
        assert content[decision.start : decision.stop] == content[first : last + 1]
