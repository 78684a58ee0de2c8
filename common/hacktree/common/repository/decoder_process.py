"""The program of a decoder worker: turns frames into objects, without privileges.

It is started or forked by `decoding.DecoderPool` and obeys only its socket. Whatever a hostile
frame makes of it, it owns nothing: before the first byte is read it has dropped its user, may gain
no other, may write no file, and (where the kernel has Landlock) may open none. It gets open
descriptors, and writes into the memory that it is given; the parent hashes that.
"""

import array
import ctypes
import gc
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from hacktree.common.delta.entry import EntryKind
from hacktree.common.delta.frame import FrameReader
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.errors import FormatError
from hacktree.common.repository.forking import keep_only

MAX_WANTED: Final = 190
"""Entries of one job, and bases: Linux passes at most 253 descriptors in a message."""

MAX_MESSAGE: Final = 160 << 10
"""Bytes of a job or result; the default socket buffer holds one of them."""

NOBODY: Final = 65534
CPU_SECONDS: Final = 3600
"""CPU time after which the kernel ends a worker; the parent's timer is shorter, for each job."""

_MAX_REASON: Final = 200
_MAPPED: Final = 256 << 10
"""Bases up to this many bytes are read: mapping them costs more."""

OUTPUT: Final = 24 << 20
"""Bytes of memory for a job's output that are kept for the next: fresh memory costs more than
decoding does. What no job has needed yet takes none.
"""

_MAX_WINDOWS: Final = 16
"""Outputs that a worker keeps mapped: a pool has one more than it has workers."""

_MADV_POPULATE_WRITE: Final = 23
"""Since Linux 5.14."""

_MUCH: Final = 4 << 20
"""Bytes of output from which on one call maps them all, instead of a fault for each page."""

_TOGETHER: Final = 4 << 20
_MAX_BASES: Final = 8 << 20
"""Plain entries up to so many bytes are decoded together, with bases of so many bytes in all."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT: Final = 32 << 20
"""Bytes; glibc takes no larger threshold."""

_PR_SET_NO_NEW_PRIVS: Final = 38
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_EVERYTHING: Final = (1 << 13) - 1
"""Every right of the first version of Landlock's interface."""


class Wanted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One entry to decode: its place in the frame, the descriptor of its base (its place among
    the job's bases; -1 for none), and where in the output it goes.
    """

    index: Annotated[int, Meta(ge=0)]
    base: Annotated[int, Meta(ge=-1)]
    offset: Annotated[int, Meta(ge=0)]


class Job(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="job"):
    """A frame to decode. Descriptors: frame, output, then (with `context`) the pack's dictionary
    and shared maps, then the bases. `kinds` and `sizes` are those of all entries of the frame.
    """

    number: int
    frame: tuple[int, int]
    context: tuple[int, int] | None
    kinds: list[int]
    sizes: list[Annotated[int, Meta(ge=0)]]
    wanted: list[Wanted]


class Result(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="done"):
    """For each wanted entry why it could not be decoded; empty where it was."""

    number: int
    reasons: Annotated[
        list[Annotated[str, Meta(max_length=_MAX_REASON)]], Meta(max_length=MAX_WANTED)
    ]


def drop_privileges(data_limit: int) -> None:
    """Give up everything but memory (`data_limit` bytes) and open descriptors."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    _forbid_paths(libc)
    descriptors = MAX_WANTED + 20
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, descriptors),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_DATA, data_limit),
    ):
        hard = resource.getrlimit(kind)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (value, value))


def _forbid_paths(libc: ctypes.CDLL) -> None:
    """No file can be opened any more. A kernel without Landlock leaves it at the lost user."""
    rights = ctypes.c_uint64(_LANDLOCK_EVERYTHING)
    ruleset = libc.syscall(
        _LANDLOCK_CREATE_RULESET, ctypes.byref(rights), ctypes.c_size_t(8), ctypes.c_uint32(0)
    )
    if ruleset >= 0:
        libc.syscall(_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
        os.close(ruleset)


def load_everything() -> None:
    """Use what numpy imports only at first use: afterwards no file can be opened."""
    numbers = np.array([3, 1, 2, 3], np.int64)
    np.unique(numbers)
    np.unique(numbers, return_inverse=True)
    np.isin(numbers, numbers)
    np.lexsort((numbers, numbers))
    np.searchsorted(np.sort(numbers), numbers)


class Decoder:
    """Executes jobs; remembers the dictionary and maps of the pack that it was last given."""

    def __init__(self) -> None:
        # Written to when it is made, which is while the parent still plans.
        self._olds = memoryview(bytearray(_MAX_BASES))
        self._windows: dict[int, mmap.mmap] = {}
        self._dictionary = b""
        self._shared = Shared()

    def execute(self, job: Job, descriptors: Sequence[int]) -> Result:
        """Decode into the output."""
        count = len(job.wanted)
        try:
            frame, output, *rest = descriptors
            if job.context is not None:
                self._read_context(rest.pop(0), *job.context)
            offset, length = job.frame
            reader = FrameReader(
                os.pread(frame, length, offset),
                [EntryKind(kind) for kind in job.kinds],
                job.sizes,
                self._dictionary,
                self._shared,
            )
        except (FormatError, MemoryError, ValueError, OverflowError) as error:
            return Result(job.number, [_reason(error)] * count)
        total = sum(job.sizes[wanted.index] for wanted in job.wanted)
        window = self._map_output(output, total)
        try:
            view = memoryview(window)[:total]
            done: set[int] = set()
            for batch in _batches(job, rest):
                done.update(self._decode_batch(reader, batch, view))
            reasons = [
                "" if wanted.index in done else self._decode(reader, job, wanted, rest, view)
                for wanted in job.wanted
            ]
            del reader
            view.release()
        finally:
            if window not in self._windows.values():
                _unmap(window)
        return Result(job.number, reasons)

    def _map_output(self, descriptor: int, total: int) -> mmap.mmap:
        """Memory of the usual size comes again, and stays mapped; other memory is the caller's."""
        status = os.fstat(descriptor)
        if status.st_size != OUTPUT or total > OUTPUT:
            window = mmap.mmap(descriptor, total)
            _populate(window, total)
            return window
        if status.st_ino not in self._windows:
            if len(self._windows) == _MAX_WINDOWS:
                _unmap(self._windows.pop(next(iter(self._windows))))
            self._windows[status.st_ino] = mmap.mmap(descriptor, OUTPUT)
        _populate(self._windows[status.st_ino], total)
        return self._windows[status.st_ino]

    def _read_context(self, descriptor: int, dictionary: int, shared: int) -> None:
        self._dictionary = os.pread(descriptor, dictionary, 0)
        self._shared = Shared.decode(os.pread(descriptor, shared, dictionary))

    def _decode_batch(
        self, reader: FrameReader, batch: "Sequence[_Plain]", output: memoryview
    ) -> list[int]:
        """The entries that were decoded: all, or none if one is wrong, which tells itself alone."""
        places, start = [], 0
        for entry in batch:
            end, offset = start + entry.base_size, entry.wanted.offset
            if os.preadv(entry.base, [self._olds[start:end]], 0) != entry.base_size:
                return []
            new = slice(offset, offset + entry.size)
            places.append((entry.wanted.index, slice(start, end), new))
            start = end
        try:
            reader.decode_plain(places, self._olds, output)
        except (FormatError, MemoryError, ValueError, OverflowError):
            return []
        return [entry.wanted.index for entry in batch]

    def _decode(
        self,
        reader: FrameReader,
        job: Job,
        wanted: Wanted,
        bases: Sequence[int],
        output: memoryview,
    ) -> str:
        target = output[wanted.offset : wanted.offset + job.sizes[wanted.index]]
        base = None if wanted.base < 0 else _read_base(bases[wanted.base])
        try:
            reader.decode(wanted.index, base, target)
            reason = ""
        except (FormatError, MemoryError, ValueError, OverflowError) as error:
            reason = _reason(error)
        # Only now is the error gone, whose traceback had arrays over both.
        target.release()
        if isinstance(base, mmap.mmap):
            _unmap(base)
        return reason


class _Plain(msgspec.Struct, frozen=True):
    """A small plain entry; `base` is a descriptor, sizes are in bytes."""

    wanted: Wanted
    size: int
    base: int
    base_size: int


def _batches(job: Job, bases: Sequence[int]) -> Iterator[list[_Plain]]:
    """The small plain entries, so many at a time that their bases are not too many bytes."""
    batch: list[_Plain] = []
    total = 0
    for wanted in job.wanted:
        size = job.sizes[wanted.index]
        if job.kinds[wanted.index] != EntryKind.DELTA or wanted.base < 0 or size > _TOGETHER:
            continue
        base = bases[wanted.base]
        base_size = os.fstat(base).st_size
        if base_size > _TOGETHER:
            continue
        if total + base_size > _MAX_BASES:
            yield batch
            batch, total = [], 0
        batch.append(_Plain(wanted, size, base, base_size))
        total += base_size
    if batch:
        yield batch


def _read_base(descriptor: int) -> bytes | mmap.mmap:
    size = os.fstat(descriptor).st_size
    if size <= _MAPPED:
        return os.pread(descriptor, size, 0)
    return mmap.mmap(descriptor, size, prot=mmap.PROT_READ)


def _populate(window: mmap.mmap, total: int) -> None:
    if total > _MUCH:
        # A kernel that can't does without.
        with suppress(OSError):
            window.madvise(_MADV_POPULATE_WRITE, 0, total)


def _unmap(window: mmap.mmap) -> None:
    try:
        window.close()
    except BufferError:
        # An error's traceback, or a cycle, keeps an array over it.
        gc.collect()
        window.close()


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:_MAX_REASON]


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One message and its descriptors; an empty one when the parent is gone."""
    space = socket.CMSG_SPACE((MAX_WANTED + 3) * array.array("i").itemsize)
    data, ancillary, flags, _ = connection.recvmsg(MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, block in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(block)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise SystemExit("a message was cut off")
    return data, descriptors.tolist()


def serve(connection: socket.socket) -> None:
    """Execute jobs until the parent closes its end."""
    decoder = Decoder()
    jobs = msgspec.msgpack.Decoder(Job)
    encoder = msgspec.msgpack.Encoder()
    while True:
        data, descriptors = receive(connection)
        if not data:
            return
        try:
            result = decoder.execute(jobs.decode(data), descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        connection.send(encoder.encode(result))


def keep_memory() -> None:
    """Have glibc keep what is freed for what comes next: fresh pages cost more than the work."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT)


def work(connection: socket.socket, data_limit: int) -> None:
    """Be a worker, with so many bytes of private memory, until the parent closes its end."""
    keep_memory()
    load_everything()
    drop_privileges(data_limit)
    serve(connection)


def fork_worker(connection: socket.socket, data_limit: int) -> int:
    """A worker that is a copy of this process, which must have one thread; returns its pid.

    It keeps no descriptor but `connection`, and never returns from here.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        gc.freeze()
        null = os.open(os.devnull, os.O_RDWR)
        keep_only(connection.fileno(), null)
        os.chdir("/")
        # What it shares with its parent takes no memory, but counts.
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        work(connection, data_limit + pages * mmap.PAGESIZE)
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    """Arguments: the socket's descriptor, and bytes of private memory allowed."""
    descriptor, data_limit = int(sys.argv[1]), int(sys.argv[2])
    with socket.socket(fileno=descriptor) as connection:
        work(connection, data_limit)


if __name__ == "__main__":
    main()
