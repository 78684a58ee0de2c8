"""Decoder workers: what they give is only what the frame says, and none can harm its parent."""

import gzip
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
import pytest

from hacktree.client.packs import decodable_kinds, read_conformance
from hacktree.client.pull import decoders
from hacktree.common.delta import memberdelta
from hacktree.common.delta.codec import encode_delta
from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind, encode_full
from hacktree.common.delta.frame import encode_frame
from hacktree.common.delta.memberencoding import encode_member
from hacktree.common.delta.shared import Shared
from hacktree.common.repository import decoding
from hacktree.common.repository.decoder_process import OUTPUT, Decoder, Job, Wanted
from hacktree.common.repository.decoding import (
    DecodedEntry,
    DecoderFailedError,
    DecoderPool,
    FrameJob,
    MemoryBudget,
    PackContext,
    WantedEntry,
)
from support.pulling import make_repository

OLD = bytes(range(256)) * 2000
NEW = OLD[:1000] + b"something else" + OLD[1000:]


@pytest.fixture(params=["forked", "started"])
def pool(request: pytest.FixtureRequest, context: PackContext) -> Iterator[DecoderPool]:
    """A pool whose worker is there, as pulls fork it or as one that failed is replaced."""
    with DecoderPool(1, MemoryBudget(64 << 20)) as pool:
        if request.param == "forked":
            pool.fork()
        entry = encode_full(b"first")
        with file_of(encode_frame([entry])) as frame:
            job = job_of(context, frame, [entry], [5], -1)
            with pool.decode(job) as decoded:
                assert [b"".join(map(bytes, entry.chunks())) for entry in decoded] == [b"first"]
        yield pool


@pytest.fixture
def context() -> Iterator[PackContext]:
    made = PackContext(b"", b"")
    yield made
    made.close()


def file_of(data: bytes) -> IO[bytes]:
    stream = tempfile.TemporaryFile()  # noqa: SIM115 - for the caller to close
    stream.write(data)
    stream.flush()
    return stream


def job_of(
    context: PackContext, frame: IO[bytes], entries: list[EncodedEntry], sizes: list[int], base: int
) -> FrameJob:
    wanted = [WantedEntry(i, base if e.kind else None) for i, e in enumerate(entries)]
    length = os.fstat(frame.fileno()).st_size
    return FrameJob(context, frame.fileno(), 0, length, [e.kind for e in entries], sizes, wanted)


def content(entry: DecodedEntry) -> bytes:
    return b"".join(bytes(chunk) for chunk in entry.chunks())


ENTRIES = [encode_delta(OLD, NEW, Shared()), encode_full(b"whole"), encode_full(b"other")]
SIZES = [len(NEW), 5, 5]


def test_entries_are_decoded(pool: DecoderPool, context: PackContext) -> None:
    with file_of(encode_frame(ENTRIES)) as frame, file_of(OLD) as base:
        job = job_of(context, frame, ENTRIES, SIZES, base.fileno())
        for _ in range(2):
            with pool.decode(job) as decoded:
                assert [entry.reason for entry in decoded] == ["", "", ""]
                assert [content(entry) for entry in decoded] == [NEW, b"whole", b"other"]


def test_a_forked_worker_knows_what_is_known_of_the_compressors(
    context: PackContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not find it out again: here it was told that they fail, and believes it."""
    repository = make_repository(tmp_path)
    assert EntryKind.MEMBER in decodable_kinds(repository)
    known = read_conformance(repository)
    numbers = b" ".join(str(number**3).encode() for number in range(3000))
    old, new = (gzip.compress(data, 6, mtime=0) for data in (numbers, b"one " + numbers))
    entry = encode_member(old, new, 1 << 30)
    assert entry is not None
    for answer, reason in ((True, ""), (False, "this machine's compression libraries")):
        monkeypatch.setattr("hacktree.common.delta.memberdelta.CONFORMANCE", {})
        monkeypatch.setattr("hacktree.client.pull.CONFORMANCE", memberdelta.CONFORMANCE)
        told = dict.fromkeys(known, answer)
        (repository.state / "conformance.json").write_bytes(msgspec.json.encode(told))
        with decoders(repository) as pool, file_of(encode_frame([entry])) as frame:
            pool.fork()
            with file_of(old) as base:
                job = job_of(context, frame, [entry], [len(new)], base.fileno())
                with pool.decode(job) as [decoded]:
                    assert decoded.reason.startswith(reason)
                    assert bool(decoded.reason) is not answer
        assert told == memberdelta.CONFORMANCE


def test_a_damaged_frame_gives_reasons_and_the_worker_stays(
    pool: DecoderPool, context: PackContext
) -> None:
    good = encode_frame(ENTRIES)
    pids = [worker.pid for worker in pool._free]
    with file_of(OLD) as base:
        for data in (b"", b"junk", good[:-1], good + b"x"):
            with file_of(data) as frame:
                job = job_of(context, frame, ENTRIES, SIZES, base.fileno())
                with pool.decode(job) as decoded:
                    assert all(entry.reason for entry in decoded)
    assert [worker.pid for worker in pool._free] == pids


def test_a_wrong_size_is_refused_entry_by_entry(pool: DecoderPool, context: PackContext) -> None:
    with file_of(encode_frame(ENTRIES)) as frame, file_of(OLD) as base:
        job = job_of(context, frame, ENTRIES, [len(NEW), 6, 5], base.fileno())
        with pool.decode(job) as decoded:
            assert [bool(entry.reason) for entry in decoded] == [False, True, False]


def test_a_dead_worker_costs_its_frame_and_is_replaced(
    pool: DecoderPool, context: PackContext
) -> None:
    with file_of(encode_frame(ENTRIES)) as frame, file_of(OLD) as base:
        job = job_of(context, frame, ENTRIES, SIZES, base.fileno())
        os.kill(pool._free[0].pid, signal.SIGKILL)
        with pytest.raises(DecoderFailedError, match="SIGKILL"), pool.decode(job):
            pass
        with pool.decode(job) as decoded:
            assert content(decoded[0]) == NEW
    assert pool.failures == 1


def test_a_hanging_worker_is_killed(
    pool: DecoderPool, context: PackContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_PATIENCE", 0.01)
    monkeypatch.setattr(decoding, "_SLOWEST", 1 << 40)
    with file_of(encode_frame(ENTRIES)) as frame, file_of(OLD) as base:
        job = job_of(context, frame, ENTRIES, SIZES, base.fileno())
        pid = pool._free[0].pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(DecoderFailedError), pool.decode(job):
            pass
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_cannot_resize_the_output(pool: DecoderPool, context: PackContext) -> None:
    """Reading memory that is gone would kill the reader; memory that grows would be without end."""
    with file_of(encode_frame(ENTRIES)) as frame, file_of(OLD) as base:
        job = job_of(context, frame, ENTRIES, SIZES, base.fileno())
        with pool.decode(job) as decoded:
            for size in (0, 1 << 30):
                with pytest.raises(PermissionError):
                    os.ftruncate(decoded[0]._output, size)


def test_what_was_read_does_not_change_when_the_worker_writes_again(
    pool: DecoderPool, context: PackContext
) -> None:
    with file_of(encode_frame(ENTRIES)) as frame, file_of(OLD) as base:
        job = job_of(context, frame, ENTRIES, SIZES, base.fileno())
        with pool.decode(job) as decoded:
            piece = next(decoded[0].chunks())
            before = bytes(piece)
            os.pwrite(decoded[0]._output, b"overwritten", 0)
            assert bytes(piece) == before
            assert content(decoded[0])[:11] == b"overwritten"


def test_memory_for_a_large_output_is_given_back(pool: DecoderPool, context: PackContext) -> None:
    large = encode_full(bytes(40 << 20))
    with file_of(encode_frame([large])) as frame:
        job = job_of(context, frame, [large], [40 << 20], -1)
        with pool.decode(job) as decoded:
            assert content(decoded[0]) == bytes(40 << 20)
    with file_of(encode_frame(ENTRIES)) as frame, file_of(OLD) as base:
        job = job_of(context, frame, ENTRIES, SIZES, base.fileno())
        with pool.decode(job) as decoded:
            assert os.fstat(decoded[0]._output).st_size == OUTPUT
            assert content(decoded[0]) == NEW


def peak_memory(pid: int) -> int:
    """Bytes of memory that a process has had at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


BOMB = 40_000_000
BOMBS = {
    "differences": {StreamKind.DIFF_GAPS: bytes(BOMB), StreamKind.DIFF_VALUES: bytes(BOMB)},
    "copies": {
        StreamKind.COPY_LENGTHS: b"\x08" * BOMB,
        StreamKind.COPY_GAPS: bytes(BOMB),
        StreamKind.COPY_SEEKS: bytes(BOMB),
    },
    "references": {
        StreamKind.REFERENCE_GAPS: bytes(BOMB),
        StreamKind.REFERENCE_VALUES: bytes(BOMB),
    },
    "content": {StreamKind.CONTENT: bytes(4 * BOMB)},
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("kind", [EntryKind.DELTA, EntryKind.ELF, EntryKind.FULL])
def test_bombs_stay_below_the_ceiling(context: PackContext, name: str, kind: EntryKind) -> None:
    """Streams as long as they may be, a few kilobytes compressed, of one integer a byte."""
    budget = 192 << 20
    base = OLD
    frame = encode_frame([EncodedEntry(kind, BOMBS[name], 0)])
    assert len(frame) < BOMB // 1000
    with DecoderPool(1, MemoryBudget(budget)) as pool, file_of(frame) as file, file_of(base) as old:
        job = FrameJob(context, file.fileno(), 0, len(frame), [kind], [BOMB],
                       [WantedEntry(0, old.fileno() if kind else None)])  # fmt: skip
        with pool.decode(job) as decoded:
            assert decoded[0].reason
        (worker,) = pool._free
        assert peak_memory(worker.pid) < budget + (256 << 20) + BOMB


def test_a_worker_has_no_privileges(pool: DecoderPool, context: PackContext) -> None:
    with file_of(encode_frame(ENTRIES)) as frame, file_of(OLD) as base:
        job = job_of(context, frame, ENTRIES, SIZES, base.fileno())
        with pool.decode(job):
            pass
        pid = pool._free[0].pid
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == 0
    if os.geteuid() == 0:
        assert status["Uid"].split() == ["65534"] * 4
        assert status["Gid"].split() == ["65534"] * 4
        assert status["Groups"].split() == []


def test_workers_end_with_their_pool() -> None:
    pool = DecoderPool(2, MemoryBudget(64 << 20))
    pool.fork()
    pids = [worker.pid for worker in pool._free]
    assert len(pids) == 2
    pool.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_jobs_wait_for_memory_and_the_largest_runs_alone() -> None:
    budget = MemoryBudget(100)
    inside = threading.Event()

    def second() -> None:
        with budget.hold(1000):
            inside.set()

    thread = threading.Thread(target=second)
    with budget.hold(1):
        thread.start()
        assert not inside.wait(0.05)
    assert inside.wait(10)
    thread.join()


def test_the_decoder_itself_reads_contexts_and_bases(tmp_path: Path) -> None:
    """In this process, where coverage sees it."""
    output = os.memfd_create("output")
    os.ftruncate(output, sum(SIZES))
    data = encode_frame(ENTRIES)
    with file_of(data) as frame, file_of(OLD) as base, file_of(b"") as empty:
        wanted = [Wanted(0, 0, 0), Wanted(1, -1, len(NEW)), Wanted(2, -1, len(NEW) + 5)]
        kinds = [int(entry.kind) for entry in ENTRIES]
        job = Job(7, (0, len(data)), (0, 0), kinds, SIZES, wanted)
        job = msgspec.msgpack.decode(msgspec.msgpack.encode(job), type=Job)
        descriptors = [frame.fileno(), output, empty.fileno(), base.fileno()]
        result = Decoder().execute(job, descriptors)
    assert result.number == 7
    assert result.reasons == ["", "", ""]
    assert os.pread(output, sum(SIZES), 0) == NEW + b"whole" + b"other"
    os.close(output)
