"""Supervising encoder workers: a crash, a hang or a file too large costs one entry, never a pack.

Each worker is a process with limits on memory and stack (suffix sorting recurses), driven by one
thread that waits for its answers with a deadline; after a failure it is replaced.
"""

import os
import queue
import resource
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Final, cast

import msgspec

from hacktree.common.repository.encoder_process import Answer, Failed, Job, receive, send

MEMORY_LIMIT: Final = 3_500_000_000
"""Bytes of address space of a worker: what suffix sorting of the largest window needs, and more."""

_STACK: Final = 512 << 20
_PATIENCE: Final = 120.0
_SLOWEST: Final = 100_000
"""Bytes a second that encoding exceeds; a job may take that, and `_PATIENCE` seconds."""

_PROGRAM: Final = "hacktree.common.repository.encoder_process"

WORKER: Final = (sys.executable, "-I", "-m", _PROGRAM)
"""The command of a worker; its arguments are appended."""


@dataclass(frozen=True, slots=True)
class Task:
    """A job, the bytes that it works on, and who is told the answer (on a thread of the pool's)."""

    job: Job
    size: int
    done: Callable[[Answer], None] = field(compare=False)


class EncoderPool:
    """Runs tasks on `workers` processes, in the order given."""

    def __init__(
        self,
        workers: int,
        arguments: Sequence[str],
        *,
        command: Sequence[str] = WORKER,
        patience: float = _PATIENCE,
        memory: int = MEMORY_LIMIT,
    ) -> None:
        self._workers = workers
        self._command = [*command, *arguments]
        self._patience = patience
        self._memory = memory

    def run(self, tasks: Sequence[Task]) -> None:
        """Do all of them; returns when the last is done. A failure of `done` itself is raised."""
        pending: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            pending.put(task)
        errors: list[BaseException] = []
        threads = [
            threading.Thread(target=self._drive, args=(pending, errors), name=f"encoder-{number}")
            for number in range(min(self._workers, len(tasks)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _drive(self, pending: "queue.SimpleQueue[Task]", errors: list[BaseException]) -> None:
        worker = _Worker(self._command, self._memory)
        try:
            while not errors:
                try:
                    task = pending.get_nowait()
                except queue.Empty:
                    return
                answer = worker.ask(task.job, self._patience + task.size / _SLOWEST)
                if isinstance(answer, Failed):
                    worker.stop()
                    worker = _Worker(self._command, self._memory)
                task.done(answer)
        except BaseException as error:  # noqa: BLE001 - raised by `run`, on its thread
            errors.append(error)
        finally:
            worker.stop()


class _Worker:
    def __init__(self, command: Sequence[str], memory: int) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: _limit(memory),
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self._jobs = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)

    def ask(self, job: Job, seconds: float) -> Answer:
        """The answer, or `Failed` if there is none in time."""
        try:
            send(self._jobs, job)
            if not select.select([self._answers], [], [], seconds)[0]:
                return Failed(f"no answer for {seconds:.0f} s")
            data = receive(self._answers)
        except BrokenPipeError:
            data = b""
        if not data:
            return Failed(f"the encoder ended with status {self.stop()}")
        answer: Answer = msgspec.msgpack.decode(data, type=Answer)
        return answer

    def stop(self) -> int:
        """End the process; its exit status."""
        self._process.kill()
        status = self._process.wait()
        self._answers.close()
        try:
            self._jobs.close()
        except BrokenPipeError:
            return status  # Closing flushes what a dead worker didn't read.
        return status


def _limit(memory: int) -> None:
    """In the child, before it executes: limits, and the lowest priority that is polite."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = _STACK if hard == resource.RLIM_INFINITY else min(_STACK, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))
    resource.setrlimit(resource.RLIMIT_AS, (memory + stack, memory + stack))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
