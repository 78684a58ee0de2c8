"""The program of an encoder worker: reads jobs from its standard input, answers on its output.

It works on objects of one repository and on files of one scratch directory. Memory, stack and the
like are limited by whoever starts it (`encoders`); what goes wrong with an entry costs that entry.
"""

import hashlib
import sys
from pathlib import Path
from typing import IO, Annotated, Final

import msgspec
from msgspec import Meta

from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind
from hacktree.common.delta.frame import encode_frame
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.zstandard import compress, decompress_bounded
from hacktree.common.repository.encoding import encode_best, encode_whole
from hacktree.common.repository.repository import Repository, open_repository

MAX_SPILL: Final = 64 << 30
_LENGTH_BYTES: Final = 4

Size = Annotated[int, Meta(ge=0)]


class Content(msgspec.Struct, frozen=True, array_like=True):
    """An object: its id and its size in bytes."""

    id: bytes
    size: Size


class EntryJob(msgspec.Struct, frozen=True, array_like=True, tag="entry"):
    """Encode `target` against `base` (None: whole) into the file `spill`."""

    target: Content
    base: Content | None
    spill: str


class FrameJob(msgspec.Struct, frozen=True, array_like=True, tag="frame"):
    """Compress the entries in the files `spills` into the frame `output`."""

    spills: list[str]
    output: str


class EntryDone(msgspec.Struct, frozen=True, array_like=True, tag="entry-done"):
    """`estimate`: bytes that the entry will take, about."""

    kind: int
    estimate: int
    cost: int


class FrameDone(msgspec.Struct, frozen=True, array_like=True, tag="frame-done"):
    """Bytes and sha256 of the frame."""

    length: int
    digest: bytes


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The job could not be done."""

    reason: str


Job = EntryJob | FrameJob
Answer = EntryDone | FrameDone | Failed


class _Spill(msgspec.Struct, frozen=True, array_like=True):
    kind: int
    cost: int
    parts: dict[int, bytes]


def write_spill(path: Path, entry: EncodedEntry) -> None:
    """Keep an entry in a file until its frame is made."""
    parts = {int(kind): bytes(part) for kind, part in entry.parts.items() if part}
    data = msgspec.msgpack.encode(_Spill(int(entry.kind), entry.cost, parts))
    path.write_bytes(compress(data, 1))


def read_spill(path: Path) -> EncodedEntry:
    """The inverse of `write_spill`."""
    spill = msgspec.msgpack.decode(decompress_bounded(path.read_bytes(), MAX_SPILL), type=_Spill)
    parts = {StreamKind(kind): part for kind, part in spill.parts.items()}
    return EncodedEntry(EntryKind(spill.kind), parts, spill.cost)


def send(stream: IO[bytes], message: Job | Answer) -> None:
    """Write one message with its length before it."""
    data = msgspec.msgpack.encode(message)
    stream.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """One message; empty at the end."""
    header = stream.read(_LENGTH_BYTES)
    return stream.read(int.from_bytes(header, "big")) if len(header) == _LENGTH_BYTES else b""


def _load(repository: Repository, content: Content) -> bytes:
    entry = FileEntry(b"-", 0o644, 0, 0, (), ObjectId(content.id), content.size)
    return b"".join(repository.read_content(entry))


def execute(repository: Repository, shared: Shared, job: Job) -> Answer:
    """Do one job."""
    if isinstance(job, FrameJob):
        frame = encode_frame([read_spill(Path(path)) for path in job.spills])
        Path(job.output).write_bytes(frame)
        return FrameDone(len(frame), hashlib.sha256(frame).digest())
    new = _load(repository, job.target)
    if job.base is None:
        chosen = encode_whole(new)
    else:
        chosen = encode_best(_load(repository, job.base), new, shared)
    write_spill(Path(job.spill), chosen.entry)
    return EntryDone(int(chosen.entry.kind), chosen.estimate, chosen.entry.cost)


def main() -> None:
    """Arguments: the repository, and the file with the pack's shared maps."""
    repository = open_repository(Path(sys.argv[1]))
    shared = Shared.decode(Path(sys.argv[2]).read_bytes())
    jobs: msgspec.msgpack.Decoder[Job] = msgspec.msgpack.Decoder(Job)
    while data := receive(sys.stdin.buffer):
        try:
            answer = execute(repository, shared, jobs.decode(data))
        except MemoryError:
            answer = Failed("not enough memory")
        send(sys.stdout.buffer, answer)


if __name__ == "__main__":
    main()
