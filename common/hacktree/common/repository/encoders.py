"""Supervising encoder workers: a crash, a hang or a file too large costs one entry, never a pack.

Jobs are submitted, futures resolve to answers. Each of its threads drives one worker process and
waits for its answers with a deadline; after a failure the worker is replaced.
"""

import os
import queue
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from threading import Thread
from typing import IO, Final, cast

import msgspec

from hacktree.common.repository.encoder_process import Answer, Failed, Job, receive, send

_LAUNCHER: Final = "hacktree.common.repository.encoder_launch"
_PROGRAM: Final = "hacktree.common.repository.encoder_process"
_WALL_FACTOR: Final = 4
"""Seconds on the clock for each second of processor time that a job may take: cores are shared."""

_LAST_WORDS: Final = 5.0
"""Seconds that a worker may take to end once it has closed its output."""


class Limits(msgspec.Struct, frozen=True):
    """What a worker may use: bytes of address space and of stack, seconds of processor time.

    A job may take `seconds`, and a second more for each `slowest` bytes that it reads.
    """

    memory: int = 3_500_000_000
    stack: int = 1 << 30
    seconds: float = 120.0
    slowest: int = 100_000

    def seconds_for(self, size: int) -> int:
        """Processor time for a job that reads `size` bytes, rounded up."""
        return int(self.seconds + size / self.slowest) + 1


_ANSWERS: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)

WORKER: Final = (sys.executable, "-I", "-m", _PROGRAM)
"""The command of a worker, with a whole path; its arguments are appended."""


_LAST, _URGENT, _NORMAL = range(3)
"""An end comes before all that waits."""


@dataclass(frozen=True, slots=True, order=True)
class _Order:
    """A job that waits; without one: the end."""

    priority: int
    number: int
    job: Job | None = field(compare=False)
    future: "Future[Answer]" = field(compare=False)


class EncoderPool:
    """Workers for one pack: `repository` and `shared` are paths, of the archive and its maps."""

    def __init__(
        self,
        workers: int,
        repository: str,
        shared: str,
        limits: Limits,
        *,
        command: Sequence[str] = WORKER,
    ) -> None:
        limited = [str(limits.memory), str(limits.stack), str(os.getpid())]
        self.limits = limits
        self._command = [
            *(sys.executable, "-I", "-m", _LAUNCHER, *limited),
            *(*command, repository, shared),
        ]
        self._jobs: queue.PriorityQueue[_Order] = queue.PriorityQueue()
        self._numbers = count()
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: list[_Worker] = []
        self._threads = [Thread(target=self._serve, name="encoder") for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "EncoderPool":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def submit(self, job: Job, *, urgent: bool = False) -> "Future[Answer]":
        """Have a job done; jobs begin in the order of their submission, urgent ones first."""
        future: Future[Answer] = Future()
        self._jobs.put(_Order(_URGENT if urgent else _NORMAL, next(self._numbers), job, future))
        return future

    def close(self) -> None:
        """Forget what has not begun, and end the workers, whatever they are doing."""
        for _ in self._threads:
            self._jobs.put(_Order(_LAST, next(self._numbers), None, Future()))
        for worker in list(self._all):
            worker.kill()
        for thread in self._threads:
            thread.join()
        for worker in self._all:
            worker.end()

    def _serve(self) -> None:
        """A thread: does jobs until it is told to end."""
        while (order := self._jobs.get()).job is not None:
            if order.future.set_running_or_notify_cancel():
                try:
                    order.future.set_result(self._run(order.job))
                except BaseException as error:  # noqa: BLE001 - it is the waiter's to handle
                    order.future.set_exception(error)

    def _run(self, job: Job) -> Answer:
        worker = self._take()
        answer = worker.ask(job)
        if isinstance(answer, Failed):
            # What failed for want of memory may have left too little of it.
            worker.end()
            self._all.remove(worker)
        else:
            self._idle.put(worker)
        return answer

    def _take(self) -> "_Worker":
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            worker = _Worker(self._command)
            self._all.append(worker)
            return worker


class _Worker:
    """One process; its methods are for one thread at a time, but for `kill`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Threads of a linear algebra library that nobody calls would cost address space.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self._jobs = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)

    def ask(self, job: Job) -> Answer:
        """The answer, or `Failed` if there is none in time."""
        try:
            send(self._jobs, job)
            if not select.select([self._answers], [], [], _WALL_FACTOR * job.seconds)[0]:
                return Failed(f"no answer for {_WALL_FACTOR * job.seconds} s")
            data = receive(self._answers)
        except BrokenPipeError:
            data = b""
        if not data:
            return Failed(_describe(self._outcome()))
        try:
            return _ANSWERS.decode(data)
        except msgspec.MsgspecError:
            return Failed("the encoder gave no sensible answer")

    def kill(self) -> None:
        """End the process; whoever waits for its answer gets `Failed`."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def end(self) -> None:
        """End the process and give its pipes back."""
        self.kill()
        self._process.wait()
        self._answers.close()
        with suppress(BrokenPipeError):
            self._jobs.close()  # Flushes what a dead worker didn't read.

    def _outcome(self) -> int:
        """How a process that closed its end ends; negative for a signal."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(_LAST_WORDS)
        return 0


def _describe(status: int) -> str:
    if status >= 0:
        return f"the encoder ended with status {status}"
    with suppress(ValueError):
        return f"the encoder was killed by {signal.Signals(-status).name}"
    return f"the encoder was killed by signal {-status}"
