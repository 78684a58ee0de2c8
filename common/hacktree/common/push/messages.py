"""Requests and answers of a push, but for the batches. docs/format.md, "Push"."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.common.objects.codec import Codec
from hacktree.common.objects.commit import MAX_COMMIT_SIZE
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ID_LENGTH, ObjectId, WireObjectId
from hacktree.common.objects.names import MAX_BRANCH_LENGTH
from hacktree.common.push.framing import ObjectKey, ObjectKind

API_PREFIX: Final = "/api/v1"
MEDIA_TYPE: Final = "application/msgpack"
BATCH_TYPE: Final = "application/octet-stream"

MAX_IDS: Final = 65_536
"""Objects that one request may ask about: 2 MiB of ids."""

MAX_ROLE_SIZE: Final = 1 << 20
"""Bytes of signed metadata that come with a push."""

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
OptionalId = Annotated[bytes, Meta(max_length=ID_LENGTH)]
"""An object id, or nothing."""

_Ids = Annotated[bytes, Meta(max_length=MAX_IDS * ID_LENGTH)]


class OpenRequest(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="open"
):
    """Open or resume the push of a commit; `expected`: the head it follows, empty for none."""

    version: Literal[1]
    branch: Annotated[str, Meta(min_length=1, max_length=MAX_BRANCH_LENGTH)]
    expected: OptionalId
    commit: Annotated[bytes, Meta(min_length=1, max_length=MAX_COMMIT_SIZE)]

    def __post_init__(self) -> None:
        if len(self.expected) not in (0, ID_LENGTH):
            raise FormatError("the expected head is neither an id nor empty")


class OpenAnswer(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="opened"
):
    """`push` is empty when the commit is published already; else what was acknowledged before."""

    version: Literal[1]
    push: Annotated[str, Meta(max_length=32)]
    objects: Count
    bytes: Count


class MissingRequest(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="have"
):
    """Ids, one after the other, of metas and of files that the client could send."""

    version: Literal[1]
    metas: _Ids
    files: _Ids

    def __post_init__(self) -> None:
        if len(self.metas) % ID_LENGTH or len(self.files) % ID_LENGTH:
            raise FormatError("a list of ids ends within one")
        if len(self.metas) + len(self.files) > MAX_IDS * ID_LENGTH:
            raise FormatError(f"more than {MAX_IDS} ids")

    def objects(self) -> Iterator[ObjectKey]:
        """The objects asked about, metas first: the order of the answer's bits."""
        for kind, ids in ((ObjectKind.META, self.metas), (ObjectKind.FILE, self.files)):
            for start in range(0, len(ids), ID_LENGTH):
                yield ObjectKey(kind, ObjectId(ids[start : start + ID_LENGTH]))


class MissingAnswer(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="missing"
):
    """One bit for each object asked about, from the lowest of the first byte: 1 to be sent."""

    version: Literal[1]
    bits: Annotated[bytes, Meta(max_length=MAX_IDS // 8)]


class BatchAnswer(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="acknowledged"
):
    """Objects and bytes of the whole push that are verified and on the server's disk."""

    version: Literal[1]
    objects: Count
    bytes: Count


class FinishRequest(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="finish"
):
    """Publish the commit and move the branch; `role`: signed metadata, or nothing."""

    version: Literal[1]
    role: Annotated[bytes, Meta(max_length=MAX_ROLE_SIZE)]


class FinishAnswer(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="published"
):
    """The branch's head is now `head`: the commit that was pushed."""

    version: Literal[1]
    head: WireObjectId


_SLACK: Final = 1024
OPEN_REQUEST: Final = Codec(OpenRequest, "request to open a push", MAX_COMMIT_SIZE + _SLACK)
OPEN_ANSWER: Final = Codec(OpenAnswer, "answer to opening a push", _SLACK)
MISSING_REQUEST: Final = Codec(MissingRequest, "list of ids", MAX_IDS * ID_LENGTH + _SLACK)
MISSING_ANSWER: Final = Codec(MissingAnswer, "list of what is missing", MAX_IDS // 8 + _SLACK)
BATCH_ANSWER: Final = Codec(BatchAnswer, "answer to a batch", _SLACK)
FINISH_REQUEST: Final = Codec(FinishRequest, "request to finish a push", MAX_ROLE_SIZE + _SLACK)
FINISH_ANSWER: Final = Codec(FinishAnswer, "answer to finishing a push", _SLACK)


def ask_about(keys: Sequence[ObjectKey]) -> tuple[MissingRequest, list[ObjectKey]]:
    """The request about at most `MAX_IDS` objects, and them in the order of the answer's bits."""
    metas = [key for key in keys if key.kind is ObjectKind.META]
    files = [key for key in keys if key.kind is ObjectKind.FILE]
    request = MissingRequest(
        1, b"".join(key.id for key in metas), b"".join(key.id for key in files)
    )
    return request, [*metas, *files]


def pack_bits(missing: Iterable[bool]) -> bytes:
    """The bits of a `MissingAnswer`; those that fill the last byte are 0."""
    packed = bytearray()
    for index, bit in enumerate(missing):
        if index % 8 == 0:
            packed.append(0)
        packed[-1] |= bit << (index % 8)
    return bytes(packed)


def select_missing(asked: Sequence[ObjectKey], answer: MissingAnswer) -> list[ObjectKey]:
    """The objects that the server lacks; raises `FormatError` if the answer is of another list."""
    bits = int.from_bytes(answer.bits, "little")
    if len(answer.bits) != (len(asked) + 7) // 8 or bits >> len(asked):
        raise FormatError(f"{len(answer.bits)} bytes of bits answer for {len(asked)} objects")
    return [key for index, key in enumerate(asked) if answer.bits[index // 8] >> (index % 8) & 1]
