"""A published history is followed by hashes alone: pages can be useless, never believed."""

from collections.abc import Iterable, Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.strategies import commits
from hacktree.common.objects.commit import Commit, RootDirectory, Totals, encode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.history import (
    PAGE_LENGTH,
    HistoryPage,
    check_succession,
    decode_page,
    encode_page,
    verified_chain,
)
from hacktree.common.objects.ids import ObjectId, hash_bytes


def _commit(sequence: int, parent: bytes | None, branch: str = "builds") -> bytes:
    return encode_commit(
        Commit(
            format=1,
            root=RootDirectory(hash_bytes(b"tree"), 100, 0o755, 0, 0, ()),
            parents=() if parent is None else (hash_bytes(parent),),
            sequence=sequence,
            branch=branch,
            architecture="",
            time=sequence,
            version="",
            subject="",
            body="",
            totals=Totals(0, 0, 0, 0),
            metadata={},
        )
    )


def _history(length: int) -> list[bytes]:
    """Encoded commits of a branch, newest first."""
    chain: list[bytes] = []
    for sequence in range(1, length + 1):
        chain.insert(0, _commit(sequence, chain[0] if chain else None))
    return chain


HISTORY = _history(8)


def _follow(head: bytes, encoded: Iterable[bytes]) -> list[bytes]:
    return [data for _, data, _ in verified_chain(hash_bytes(head), encoded)]


def test_a_whole_history_is_followed_to_its_first_commit() -> None:
    """Each commit comes with its id, its bytes and its value."""
    found = list(verified_chain(hash_bytes(HISTORY[0]), HISTORY))
    assert [data for _, data, _ in found] == HISTORY
    assert [commit.sequence for _, _, commit in found] == [8, 7, 6, 5, 4, 3, 2, 1]
    for object_id, data, commit in found:
        assert object_id == hash_bytes(data)
        assert encode_commit(commit) == data


def test_commits_newer_than_the_head_are_skipped() -> None:
    """A page is written before the ref moves, so it may be ahead of it."""
    assert _follow(HISTORY[3], HISTORY) == HISTORY[3:]


def test_a_head_that_no_page_holds_gives_nothing() -> None:
    """A page that lags behind is no error: commits are then fetched as objects."""
    assert _follow(_commit(9, HISTORY[0]), HISTORY) == []
    assert _follow(HISTORY[0], []) == []


def test_the_chain_ends_where_a_commit_is_missing() -> None:
    """What is older than a gap is not reached by guessing."""
    assert _follow(HISTORY[0], HISTORY[:3] + HISTORY[4:]) == HISTORY[:3]


def test_the_chain_ends_at_a_forged_commit() -> None:
    """A commit in the place of another, with the right sequence and branch, is not yielded."""
    forged = _commit(5, b"another parent")
    assert forged not in HISTORY
    assert _follow(HISTORY[0], [*HISTORY[:3], forged, *HISTORY[4:]]) == HISTORY[:3]


def test_nothing_follows_a_first_commit() -> None:
    """Pages may go on for ever; the chain does not."""

    def endless() -> Iterator[bytes]:
        yield HISTORY[-1]
        raise AssertionError("read past the first commit")

    assert _follow(HISTORY[-1], endless()) == HISTORY[-1:]


def test_pages_are_read_no_further_than_asked() -> None:
    """`BRANCH~1` reads two commits, so older pages need not be fetched."""
    read: list[bytes] = []

    def pages() -> Iterator[bytes]:
        for data in HISTORY:
            read.append(data)
            yield data

    chain = verified_chain(hash_bytes(HISTORY[0]), pages())
    next(chain)
    next(chain)
    assert read == HISTORY[:2]


@given(st.lists(st.binary(max_size=20) | st.sampled_from(HISTORY), max_size=20))
def test_junk_between_the_commits_changes_nothing(junk: list[bytes]) -> None:
    """Whatever a page holds besides, in whatever place, the chain is the same."""
    page: list[bytes] = []
    for position, data in enumerate(HISTORY):
        page += junk[position::8]
        page.append(data)
    assert _follow(HISTORY[0], page) == HISTORY


@given(st.permutations(HISTORY), st.sampled_from(HISTORY))
def test_pages_out_of_order_give_a_beginning_of_the_chain(page: list[bytes], head: bytes) -> None:
    """Disorder loses commits but never adds or reorders one."""
    found = _follow(head, page)
    start = HISTORY.index(head)
    assert found == HISTORY[start : start + len(found)]
    assert found


WRONG = {
    "a sequence that repeats": _commit(7, HISTORY[1]),
    "a sequence that jumps": _commit(9, HISTORY[1]),
    "a sequence that goes back": _commit(2, HISTORY[0]),
    "another branch": _commit(8, HISTORY[1], branch="fastqa"),
}


@pytest.mark.parametrize("head", WRONG.values(), ids=WRONG.keys())
def test_a_parent_that_does_not_fit_is_refused(head: bytes) -> None:
    """Hashes alone would let a server splice histories; sequence and branch must fit too."""
    page = [head, *HISTORY]
    chain = verified_chain(hash_bytes(head), page)
    assert next(chain)[1] == head
    with pytest.raises(FormatError):
        next(chain)


def test_a_named_parent_that_is_no_commit_is_refused() -> None:
    """Its hash fits, so it is a lie of the one who made the child, not of the page."""
    head = _commit(2, b"no commit")
    chain = verified_chain(hash_bytes(head), [head, b"no commit"])
    next(chain)
    with pytest.raises(FormatError):
        next(chain)


@given(commits(), commits())
def test_succession_takes_the_next_of_the_same_branch_only(child: Commit, parent: Commit) -> None:
    """Whatever else they say."""
    if child.parents:
        fitting = msgspec.structs.replace(child, branch=parent.branch, sequence=parent.sequence + 1)
        check_succession(fitting, parent)
    if child.sequence != parent.sequence + 1 or child.branch != parent.branch:
        with pytest.raises(FormatError):
            check_succession(child, parent)


@pytest.mark.parametrize(
    "wire",
    [
        ["history", 2, [], b""],
        ["page", 1, [], b""],
        ["history", 1, []],
        ["history", 1, [], b"", b""],
        ["history", 1, ["text"], b""],
        ["history", 1, [], bytes(31)],
        ["history", 1, [], bytes(33)],
        ["history", 1, [], ""],
        ["history", 1, [], None],
        ["history", 1, [b""] * (2 * PAGE_LENGTH + 1), b""],
        ["history", 1, [bytes((4 << 20) + 1)], b""],
    ],
    ids=lambda wire: repr(wire)[:40],
)
def test_other_shapes_of_a_page_are_refused(wire: object) -> None:
    """Unknown versions, missing and extra fields, more commits than a page holds."""
    with pytest.raises(FormatError):
        decode_page(msgspec.msgpack.encode(wire))


def test_the_fullest_page_is_allowed() -> None:
    """128 commits, and one of 4 MiB."""
    page = HistoryPage(1, (b"",) * 127 + (bytes(4 << 20),), ObjectId(bytes(32)))
    assert decode_page(encode_page(page)) == page


@pytest.mark.parametrize("older", [b"x", bytes(31), bytes(33)])
def test_a_page_with_a_malformed_name_can_not_be_made(older: bytes) -> None:
    """An invalid value does not exist."""
    with pytest.raises(FormatError):
        HistoryPage(1, (), older)
