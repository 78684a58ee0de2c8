"""Pages of a branch's published history, and the walk that needs no trust in them.

A page holds whole commits, newest first. Its reader starts from an id it trusts (the head) and
checks each commit by hash and then by the parent that the one before it names, so a page that lies
or lags can only be useless. docs/format.md, "History".
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.common.objects.codec import Codec
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, Commit, decode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ID_LENGTH, ObjectId, hash_bytes

PAGE_LENGTH: Final = 64
"""Commits in a sealed page; the mutable tail holds up to twice as many."""

MAX_PAGE_SIZE: Final = 64 << 20
"""Bytes of one decompressed page."""


class HistoryPage(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag="history",
):
    """Encoded commits, newest first, and the id of the next older sealed page (empty: none)."""

    format: Literal[1]
    commits: Annotated[
        tuple[Annotated[bytes, Meta(max_length=MAX_COMMIT_SIZE)], ...],
        Meta(max_length=2 * PAGE_LENGTH),
    ]
    older: Annotated[bytes, Meta(max_length=ID_LENGTH)]

    def __post_init__(self) -> None:
        if len(self.older) not in (0, ID_LENGTH):
            raise FormatError("the name of an older history page is malformed")


_CODEC = Codec(HistoryPage, "history page", MAX_PAGE_SIZE)


def encode_page(page: HistoryPage) -> bytes:
    """The canonical encoding, not compressed."""
    return _CODEC.encode(page)


def decode_page(data: bytes) -> HistoryPage:
    """The page that `data` (decompressed) encodes; raises `FormatError`."""
    return _CODEC.decode(data)


def check_succession(child: Commit, parent: Commit) -> None:
    """Refuse a parent that can't stand before the child: sequence and branch must fit."""
    if child.sequence != parent.sequence + 1:
        raise FormatError(
            f"sequence {child.sequence} follows {parent.sequence} in the history of {child.branch}"
        )
    if child.branch != parent.branch:
        raise FormatError(f"a commit of {parent.branch} stands in the history of {child.branch}")


def verified_chain(
    head: ObjectId, encoded: Iterable[bytes]
) -> Iterator[tuple[ObjectId, bytes, Commit]]:
    """Yield (id, bytes, commit) from `head` back along first parents, as far as `encoded` reaches.

    Commits that are newer than the head are skipped; raises `FormatError` as soon as a commit that
    the chain names fails to decode or does not fit its child.
    """
    wanted = head
    child: Commit | None = None
    for data in encoded:
        if hash_bytes(data) != wanted:
            continue
        commit = decode_commit(data)
        if child is not None:
            check_succession(child, commit)
        yield wanted, data, commit
        if not commit.parents:
            return
        wanted, child = commit.parents[0], commit
