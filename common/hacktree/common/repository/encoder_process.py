"""The program of an encoder worker: reads jobs from its standard input, answers on its output.

It reads objects of one repository and writes results into a cache directory, each under a name that
its parent made of everything the result depends on; what is there already is not made again. Its
memory and stack are limited by `encoder_launch`, its processor time job by job. Whatever goes wrong
with a job costs that job.
"""

import hashlib
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Final

import msgspec
from msgspec import Meta

from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind, encode_full
from hacktree.common.delta.frame import encode_frame, frame_cost
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.zstandard import compress, decompress_bounded
from hacktree.common.repository.encoding import Chosen, encode_choices, is_whole
from hacktree.common.repository.repository import Repository, open_repository

_MAX_KEPT: Final = 64 << 30
_LENGTH_BYTES: Final = 4
_DIGEST: Final = 32

Size = Annotated[int, Meta(ge=0)]


class Content(msgspec.Struct, frozen=True, array_like=True):
    """An object: its id and its size in bytes."""

    id: bytes
    size: Size


class EntryJob(msgspec.Struct, frozen=True, array_like=True, tag="entry"):
    """Encode `target` against `base` into the file `output`, in `seconds` of processor time."""

    target: Content
    base: Content
    output: str
    seconds: int


class FrameItem(msgspec.Struct, frozen=True, array_like=True):
    """An entry of a frame: number `choice` of those in the file `made`; without one, all of it."""

    target: Content
    made: str = ""
    choice: int = 0


class FrameJob(msgspec.Struct, frozen=True, array_like=True, tag="frame"):
    """Compress entries into one frame, the file `output`."""

    items: list[FrameItem]
    output: str
    seconds: int


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """An entry that was made; `estimate`: bytes that it will take, about."""

    kind: int
    estimate: int
    cost: int


class EntryDone(msgspec.Struct, frozen=True, array_like=True, tag="entry-done"):
    """The choices for one object, the best that every client can decode first."""

    choices: list[Choice]


class FrameDone(msgspec.Struct, frozen=True, array_like=True, tag="frame-done"):
    """Bytes and sha256 of the frame; microseconds to decode it."""

    length: int
    digest: bytes
    cost: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The job could not be done."""

    reason: str


Job = EntryJob | FrameJob
Answer = EntryDone | FrameDone | Failed


class _KeptEntry(msgspec.Struct, frozen=True, array_like=True):
    choice: Choice
    parts: dict[int, bytes]


class _KeptEntries(msgspec.Struct, frozen=True, array_like=True):
    """`maps`: hash of the shared maps that the entries were made with; empty if they use none."""

    maps: bytes
    entries: list[_KeptEntry]


class _KeptFrame(msgspec.Struct, frozen=True, array_like=True):
    cost: int
    frame: bytes


_ENTRIES: Final = msgspec.msgpack.Decoder(_KeptEntries)
_FRAMES: Final = msgspec.msgpack.Decoder(_KeptFrame)


def send(stream: IO[bytes], message: Job | Answer) -> None:
    """Write one message with its length before it."""
    data = msgspec.msgpack.encode(message)
    stream.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """One message; empty at the end."""
    header = stream.read(_LENGTH_BYTES)
    return stream.read(int.from_bytes(header, "big")) if len(header) == _LENGTH_BYTES else b""


def keep(path: Path, data: bytes) -> None:
    """Write a cache file: a checksum, then `data`. It is whole or not there; not synced."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(hashlib.sha256(data).digest() + data)
    temporary.rename(path)


def read_kept(path: Path) -> bytes | None:
    """What `keep` wrote, or None if it is not there or not whole."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        return None
    os.utime(path)  # What is used stays: the oldest go first.
    return data[_DIGEST:]


class Encoder:
    """Does jobs, unless their results are there."""

    def __init__(self, repository: Repository, shared: Shared) -> None:
        self._repository = repository
        self._shared = shared
        self._maps = hashlib.sha256(shared.encode()).digest()

    def execute(self, job: Job) -> Answer:
        """Do one job."""
        return self._make_frame(job) if isinstance(job, FrameJob) else self._make_entry(job)

    def _make_entry(self, job: EntryJob) -> EntryDone:
        path = Path(job.output)
        kept = _read_entries(path)
        if kept is None or kept.maps not in (b"", self._maps):
            old, new = self._load(job.base), self._load(job.target)
            kept = self._keep(path, encode_choices(old, new, self._shared))
        return EntryDone([entry.choice for entry in kept.entries])

    def _keep(self, path: Path, choices: Sequence[Chosen]) -> _KeptEntries:
        entries = []
        for chosen in choices:
            entry = chosen.entry
            # A whole object is in the repository already.
            parts = {} if is_whole(entry) else {int(k): bytes(v) for k, v in entry.parts.items()}
            entries.append(_KeptEntry(Choice(int(entry.kind), chosen.estimate, entry.cost), parts))
        uses_maps = any(StreamKind.PARAMETERS in entry.parts for entry in entries)
        kept = _KeptEntries(self._maps if uses_maps else b"", entries)
        keep(path, compress(msgspec.msgpack.encode(kept), 1))
        return kept

    def _make_frame(self, job: FrameJob) -> FrameDone:
        path = Path(job.output)
        data = read_kept(path)
        if data is None:
            entries = [self._entry(item) for item in job.items]
            frame = encode_frame(entries)
            made = _KeptFrame(frame_cost(entries, frame), frame)
            keep(path, msgspec.msgpack.encode(made))
        else:
            made = _FRAMES.decode(data)
        return FrameDone(len(made.frame), hashlib.sha256(made.frame).digest(), made.cost)

    def _entry(self, item: FrameItem) -> EncodedEntry:
        if not item.made:
            return encode_full(self._load(item.target))
        kept = _read_entries(Path(item.made))
        if kept is None:
            raise FormatError("an entry is no longer in the cache")
        entry = kept.entries[item.choice]
        if entry.choice.kind == EntryKind.FULL:
            return encode_full(self._load(item.target))
        parts = {StreamKind(kind): part for kind, part in entry.parts.items()}
        return EncodedEntry(EntryKind(entry.choice.kind), parts, entry.choice.cost)

    def _load(self, content: Content) -> bytes:
        entry = FileEntry(b"-", 0o644, 0, 0, (), ObjectId(content.id), content.size)
        return b"".join(self._repository.read_content(entry))


def _read_entries(path: Path) -> _KeptEntries | None:
    data = read_kept(path)
    return None if data is None else _ENTRIES.decode(decompress_bounded(data, _MAX_KEPT))


def read_frame(path: Path) -> bytes:
    """The frame in a cache file; raises `FormatError` if it is not there or not whole."""
    data = read_kept(path)
    if data is None:
        raise FormatError("a frame is no longer in the cache")
    return _FRAMES.decode(data).frame


def _allow(seconds: int) -> None:
    """Let this process run for so many more seconds of processor time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    until = int(usage.ru_utime + usage.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def serve(encoder: Encoder, answers: IO[bytes]) -> None:
    """Do jobs until the parent closes its end."""
    jobs: msgspec.msgpack.Decoder[Job] = msgspec.msgpack.Decoder(Job)
    while data := receive(sys.stdin.buffer):
        job = jobs.decode(data)
        _allow(job.seconds)
        try:
            answer: Answer = encoder.execute(job)
        except MemoryError:
            answer = Failed("not enough memory")
        except Exception as error:  # noqa: BLE001 - a bug of the codec costs one entry, no pack
            answer = Failed(f"{type(error).__name__}: {error}")
        send(answers, answer)


def main() -> None:
    """Arguments: the repository, and the file with the pack's shared maps."""
    # Nothing that a library prints may end up among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    shared = Shared.decode(Path(sys.argv[2]).read_bytes())
    serve(Encoder(open_repository(Path(sys.argv[1])), shared), answers)


if __name__ == "__main__":
    main()
