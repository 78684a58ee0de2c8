"""Decoding frames in processes without privileges: the parent's side of `decoder_process`.

A `DecoderPool` is used from threads: each call of `decode` occupies a worker for a while, and then
its thread hashes and stores what came out, while the worker does the next job. What came out is in
memory that the worker may still write to: it is copied in pieces, and only a copy is hashed and
stored. A worker that dies, hangs or lies costs the frame it was working on and is replaced.
docs/architecture.md, "Life of a pull".
"""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec

from hacktree.common.delta.entry import EntryKind
from hacktree.common.errors import HacktreeError
from hacktree.common.repository.decoder_process import (
    MAX_MESSAGE,
    MAX_WANTED,
    OUTPUT,
    Job,
    Result,
    Wanted,
    fork_worker,
)
from hacktree.common.repository.forking import Fork

_PROGRAM: Final = "hacktree.common.repository.decoder_process"
_PRIVATE_MEMORY: Final = 256 << 20
"""Bytes that a worker may use beside what its jobs hold tokens for."""

_MIN_BUDGET: Final = 64 << 20
_FALLBACK_MEMORY: Final = 1 << 30
_PATIENCE: Final = 60.0
"""Seconds for a job, beside what its size asks for."""

_SLOWNESS: Final = 10
"""How many times slower than the maker of a pack expects a machine may be."""

_MAX_PATIENCE: Final = 3600.0
_RECOMPRESSION: Final = 400 << 20
"""Bytes that recompressing a member takes: an LZMA encoder with a dictionary of 32 MiB."""

_SLOWEST: Final = 1 << 20
"""Bytes a second that decoding exceeds on any machine."""

_ENDING: Final = 0.5
"""Seconds in which a worker whose socket broke is gone."""

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
PIECE: Final = 256 << 10
"""Bytes that are copied, hashed and written at a time: they stay in a core's cache."""

_RESULTS: Final = msgspec.msgpack.Decoder(Result)
_ENCODER: Final = msgspec.msgpack.Encoder()


class DecoderFailedError(HacktreeError):
    """A worker died, hung or lied over a frame; nothing of it was used."""


class WantedEntry(msgspec.Struct, frozen=True):
    """An entry of a frame to decode; `base` is a readable descriptor, or None."""

    index: int
    base: int | None = None


class PackContext:
    """What all frames of a pack share: dictionary and maps, kept in memory for the workers."""

    def __init__(self, dictionary: bytes, shared: bytes) -> None:
        self.lengths = (len(dictionary), len(shared))
        self.descriptor = os.memfd_create("hacktree-pack", os.MFD_CLOEXEC)
        with open(self.descriptor, "wb", closefd=False) as stream:
            stream.write(dictionary)
            stream.write(shared)

    def close(self) -> None:
        """Give the memory back; workers keep their own copy."""
        os.close(self.descriptor)


class FrameJob(msgspec.Struct, frozen=True):
    """At most `MAX_WANTED` entries of a verified frame, which is `length` bytes at `offset` of the
    open file `frame`, and is said to take `cost` microseconds. `kinds` and `sizes` are those of all
    its entries; sizes come from verified trees.
    """

    context: PackContext
    frame: int
    offset: int
    length: int
    kinds: Sequence[int]
    sizes: Sequence[int]
    wanted: Sequence[WantedEntry]
    cost: int = 0

    @property
    def output_size(self) -> int:
        """Bytes of the wanted objects."""
        return sum(self.sizes[wanted.index] for wanted in self.wanted)

    @property
    def memory(self) -> int:
        """Tokens to hold: the frame, its streams, the output, and arrays as big as the largest."""
        total = sum(self.sizes)
        arrays = 2 * max(self.sizes, default=0)
        recompression = _RECOMPRESSION if EntryKind.MEMBER in self.kinds else 0
        return self.length + total + self.output_size + arrays + recompression

    @property
    def patience(self) -> float:
        """Seconds after which a worker hangs; a pack can't have more than an hour by its cost."""
        told = min(_SLOWNESS * self.cost * 1e-6, _MAX_PATIENCE)
        return _PATIENCE + (self.output_size + self.length) / _SLOWEST + told


class DecodedEntry(msgspec.Struct, frozen=True):
    """What became of a wanted entry of `size` bytes: `reason` says why there is none, if so."""

    size: int
    reason: str
    _output: int
    _offset: int
    _piece: memoryview

    def chunks(self) -> Iterator[memoryview]:
        """The unverified content, piece by piece: each lasts until the next, of any entry."""
        done = 0
        while done < self.size:
            piece = self._piece[: self.size - done]
            if os.preadv(self._output, [piece], self._offset + done) != len(piece):
                raise OSError(errno.EIO, "the memory of a decoder is too short")
            done += len(piece)
            yield piece


def available_memory() -> int:
    """Bytes that the kernel says can be used without swapping."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return _FALLBACK_MEMORY


def default_budget() -> int:
    """A quarter of the available memory."""
    return max(available_memory() // 4, _MIN_BUDGET)


class MemoryBudget:
    """Tokens of memory. What exceeds the whole budget waits until it is alone."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Hold `amount` bytes, or all there are."""
        held = min(amount, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._held + held <= self.total)
            self._held += held
        try:
            yield
        finally:
            with self._changed:
                self._held -= held
                self._changed.notify_all()


class _Process(Protocol):
    """What ends a worker: `Popen` has it."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Its status, negative for a signal; raises `subprocess.TimeoutExpired`."""

    def kill(self) -> None:
        """End it."""


def _start(connection: socket.socket, data_limit: int) -> _Process:
    """A worker that imports all it needs: 0.3 s, but as good from a process with threads."""
    return subprocess.Popen(
        [sys.executable, "-I", "-m", _PROGRAM, str(connection.fileno()), str(data_limit)],
        pass_fds=[connection.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        # Threads of a linear algebra library that nobody calls would cost memory.
        env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )


def _fork(connection: socket.socket, data_limit: int) -> _Process:
    return Fork(fork_worker(connection, data_limit))


class _Worker:
    """One process and our end of its socket."""

    def __init__(self, begin: Callable[[socket.socket, int], _Process], data_limit: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = begin(theirs, data_limit)
        self._socket = ours
        self._context: PackContext | None = None

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def run(self, job: FrameJob, number: int, output: int) -> list[str]:
        """Have the job done into `output`; returns a reason for each wanted entry, "" if good."""
        fresh = self._context is not job.context
        bases = [entry.base for entry in job.wanted if entry.base is not None]
        places = {base: place for place, base in enumerate(dict.fromkeys(bases))}
        wanted, offset = [], 0
        for entry in job.wanted:
            base = -1 if entry.base is None else places[entry.base]
            wanted.append(Wanted(entry.index, base, offset))
            offset += job.sizes[entry.index]
        message = Job(
            number,
            (job.offset, job.length),
            job.context.lengths if fresh else None,
            list(job.kinds),
            list(job.sizes),
            wanted,
        )
        context = [job.context.descriptor] if fresh else []
        self._context = job.context
        self._socket.settimeout(job.patience)
        socket.send_fds(
            self._socket, [_ENCODER.encode(message)], [job.frame, output, *context, *places]
        )
        result = _RESULTS.decode(self._socket.recv(MAX_MESSAGE))
        if result.number != number or len(result.reasons) != len(wanted):
            raise ValueError("it answered another question")
        return result.reasons

    def hang_up(self) -> None:
        """End it without waiting for that; `kill` waits."""
        self._socket.close()
        with suppress(ProcessLookupError):
            self._process.kill()

    def kill(self, patience: float = 0.0) -> str:
        """End it; returns how it ended, if that was within `patience` seconds and by itself."""
        self._socket.close()
        ended: int | None = None
        with suppress(subprocess.TimeoutExpired):
            ended = self._process.wait(patience)
        with suppress(ProcessLookupError):
            self._process.kill()
        status = self._process.wait()
        if ended is None:
            return "was stopped"
        return f"ended with status {status}" if status >= 0 else _signal_name(-status)


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return f"was killed by {signal.Signals(number).name}"
    return f"was killed by signal {number}"


class _Output:
    """Memory of a fixed size that a worker writes a job's output to; and a piece of our own, to
    copy it to.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.piece = memoryview(bytearray(PIECE))
        self.descriptor = os.memfd_create("hacktree-output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, capacity)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)

    def close(self) -> None:
        """Give the memory back, as soon as no worker has it mapped."""
        os.close(self.descriptor)


class DecoderPool:
    """Workers, up to `workers` at a time, and the memory that they share. Thread-safe."""

    def __init__(self, workers: int, budget: MemoryBudget) -> None:
        self.size = workers
        self.failures = 0
        self._budget = budget
        self._free: list[_Worker] = []
        self._outputs: list[_Output] = []
        self._started = 0
        self._lock = threading.Lock()
        self._returned = threading.Semaphore(workers)
        self._number = 0

    def fork(self) -> None:
        """Start all workers at once, as copies of this process, which must have no other thread.

        It costs a tenth of what starting them at their first job would.
        """
        with self._lock:
            while self._started < self.size:
                self._free.append(self._begin(_fork))

    def close(self) -> None:
        """End the workers; no job may be under way."""
        with self._lock:
            workers, self._free = self._free, []
            outputs, self._outputs = self._outputs, []
            self._started = 0
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.kill()
        for output in outputs:
            output.close()

    def __enter__(self) -> "DecoderPool":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @contextmanager
    def decode(self, job: FrameJob) -> Iterator[list[DecodedEntry]]:
        """What each wanted entry decoded to, valid within the block: hash it before use.

        Blocks until a worker and memory are free. Raises `DecoderFailedError`.
        """
        if not 0 < len(job.wanted) <= MAX_WANTED:
            raise ValueError(f"a job of {len(job.wanted)} entries")
        with self._budget.hold(job.memory), self._output(job.output_size) as output:
            with self._returned:
                reasons = self._run(job, output.descriptor)
            yield _decoded_entries(job, reasons, output)

    @contextmanager
    def _output(self, size: int) -> Iterator[_Output]:
        if size > OUTPUT:
            output = _Output(size)
        else:
            with self._lock:
                output = self._outputs.pop() if self._outputs else _Output(OUTPUT)
        try:
            yield output
        finally:
            if output.capacity == OUTPUT:
                with self._lock:
                    self._outputs.append(output)
            else:
                output.close()

    def _run(self, job: FrameJob, output: int) -> list[str]:
        with self._lock:
            self._number += 1
            number = self._number
            worker = self._free.pop() if self._free else self._begin(_start)
        try:
            reasons = worker.run(job, number, output)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            ending = worker.kill(0.0 if isinstance(error, TimeoutError) else _ENDING)
            with self._lock:
                self._started -= 1
                self.failures += 1
            raise DecoderFailedError(f"a decoder {ending}: {error!r}") from error
        except BaseException:
            worker.kill()
            with self._lock:
                self._started -= 1
            raise
        with self._lock:
            self._free.append(worker)
        return reasons

    def _begin(self, begin: Callable[[socket.socket, int], _Process]) -> _Worker:
        worker = _Worker(begin, _PRIVATE_MEMORY + self._budget.total)
        self._started += 1
        return worker


def _decoded_entries(job: FrameJob, reasons: Sequence[str], output: _Output) -> list[DecodedEntry]:
    entries, offset = [], 0
    for wanted, reason in zip(job.wanted, reasons, strict=True):
        size = job.sizes[wanted.index]
        entries.append(DecodedEntry(size, reason, output.descriptor, offset, output.piece))
        offset += size
    return entries
