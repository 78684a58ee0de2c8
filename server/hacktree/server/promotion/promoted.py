"""The commit that a promotion makes: another place in history for a tree that is there. Pure.

Whoever promotes, the farm or a signer elsewhere, makes the same commit of the same facts, byte for
byte: so each can check the other's.
"""

from typing import Final

import msgspec

from hacktree.common.objects.commit import PROMOTED_FROM, Commit, encode_commit
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName

REASON: Final = "promotion-reason"
BY: Final = "promoted-by"
"""Names in a promoted commit's metadata, beside `PROMOTED_FROM`."""


class Place(msgspec.Struct, frozen=True):
    """Where the new commit goes: on `branch`, after `head` (None with its commit: the first)."""

    branch: BranchName
    head: ObjectId | None
    commit: Commit | None


class Note(msgspec.Struct, frozen=True):
    """Why a build is promoted, and who says so."""

    reason: str
    by: str


class NewCommit(msgspec.Struct, frozen=True):
    """A commit with its encoding and its id."""

    id: ObjectId
    encoded: bytes
    commit: Commit


def promoted_commit(
    place: Place, build: ObjectId, original: Commit, note: Note, time: int
) -> NewCommit:
    """The commit that puts the tree of `build`, whose commit is `original`, on a branch.

    All that was said of the build is kept. Raises `FormatError` for what no commit can say.
    """
    commit = msgspec.structs.replace(
        original,
        parents=() if place.head is None else (place.head,),
        sequence=1 if place.commit is None else place.commit.sequence + 1,
        branch=place.branch,
        time=time,
        metadata={
            **original.metadata,
            PROMOTED_FROM: build.hex(),
            REASON: note.reason,
            BY: note.by,
        },
    )
    encoded = encode_commit(commit)
    return NewCommit(hash_bytes(encoded), encoded, commit)
