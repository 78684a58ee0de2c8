"""A process that reads the network for a pull: its program, and what the two say to one another.

aiohttp is a third of what a pull imports. There it is imported while the pull imports the rest, and
what a request takes is done beside the pull's own work. The process has no other part in a pull: it
gives back bytes, which the pull checks, and ends with it.
"""

import asyncio
import errno
import gc
import os
import signal
import socket
import sys
import traceback
from typing import Final

import msgspec

from hacktree.client.remote import Remote
from hacktree.client.retry import real_patience
from hacktree.client.source import NotServedError, OversizeError, SourceError
from hacktree.client.transport import Transport
from hacktree.common.errors import UserError
from hacktree.common.repository.forking import Fork, keep_only

_LENGTH: Final = 4
"""Bytes of a message's length, big-endian, ahead of it."""

_COUNTING: Final = 0.1
"""Seconds between two counts of what came, where nothing else says it."""


class Read(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    """As `Transport.read`; its answer is named by `number`."""

    number: int
    path: str
    max_size: int


class Save(msgspec.Struct, frozen=True, array_like=True, tag="save"):
    """As `Transport.save`, where `progress` tells of `offset` and `etag`; `Begin`s and `Piece`s say
    what follows.
    """

    number: int
    path: str
    offset: int
    etag: str
    max_size: int


class ReadRange(msgspec.Struct, frozen=True, array_like=True, tag="range"):
    """As `Transport.read_range`; what comes is sent in `Piece`s."""

    number: int
    path: str
    start: int
    end: int
    max_size: int


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Nobody waits for this answer any more."""

    number: int


class Count(msgspec.Struct, frozen=True, array_like=True, tag="count"):
    """Requests made so far, and bytes received."""

    requests: int
    bytes: int


class Begin(msgspec.Struct, frozen=True, array_like=True, tag="begin"):
    """As `Part.begin`."""

    number: int
    offset: int
    etag: str


class Piece(msgspec.Struct, frozen=True, array_like=True, tag="piece"):
    """The next bytes of a range or part."""

    number: int
    data: bytes


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """It is done; `data` is what was read."""

    number: int
    data: bytes


class SourceFailure(msgspec.Struct, frozen=True, array_like=True, tag="source"):
    """A `SourceError`; `kind` is the place of its class in `_SOURCE_ERRORS`."""

    kind: int
    location: str
    problem: str
    hint: str


class UserFailure(msgspec.Struct, frozen=True, array_like=True, tag="user"):
    """A `UserError`."""

    message: str
    hint: str


class SystemFailure(msgspec.Struct, frozen=True, array_like=True, tag="system"):
    """An `OSError`."""

    number: int
    message: str
    path: str | None


Failure = SourceFailure | UserFailure | SystemFailure


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """It failed."""

    number: int
    failure: Failure


Request = Read | Save | ReadRange | Cancel
Answer = Count | Begin | Piece | Done | Failed

_SOURCE_ERRORS: Final = (SourceError, NotServedError, OversizeError)
_ENCODER: Final = msgspec.msgpack.Encoder()
_REQUESTS: Final = msgspec.msgpack.Decoder(Request)


def framed(message: Request | Answer) -> bytes:
    """A message as it is sent."""
    data = _ENCODER.encode(message)
    return len(data).to_bytes(_LENGTH, "big") + data


async def receive(reader: asyncio.StreamReader) -> bytes | None:
    """The next message, encoded; None when the other end is gone."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def revive(failure: Failure) -> Exception:
    """The exception that `_describe` told of."""
    match failure:
        case SourceFailure(kind, location, problem, hint):
            # Each says its problem already: not every constructor takes one.
            error = SourceError.__new__(_SOURCE_ERRORS[kind])
            SourceError.__init__(error, location, problem, hint=hint)
            return error
        case UserFailure(message, hint):
            return UserError(message, hint=hint)
        case SystemFailure(number, message, path):
            return OSError(number, message, path)


def _describe(error: SourceError | UserError | OSError) -> Failure:
    if isinstance(error, SourceError):
        kind = _SOURCE_ERRORS.index(type(error))
        return SourceFailure(kind, error.location, error.problem, error.hint)
    if isinstance(error, UserError):
        return UserFailure(error.message, error.hint)
    path = None if error.filename is None else os.fsdecode(error.filename)
    return SystemFailure(error.errno or errno.EIO, error.strerror or str(error), path)


class NetworkProcess:
    """The process, and our end of its socket; made by `fork_network_process`."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.connection = connection
        self._fork = Fork(pid)

    @property
    def pid(self) -> int:
        """The process."""
        return self._fork.pid

    def __enter__(self) -> "NetworkProcess":
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End it; what it was asked for and has not answered is left."""
        self.connection.close()
        self._fork.kill()
        self._fork.wait()


def fork_network_process(remote: Remote, connections: int) -> NetworkProcess:
    """A copy of this process, which must have no other thread, that reads from `remote`.

    It has at most `connections` to the server at a time, and logs as this process does.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid:
        theirs.close()
        return NetworkProcess(pid, ours)
    status = 1
    try:
        # Whoever presses Ctrl-C interrupts the pull, which ends this.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        gc.disable()  # As in the pull: imports leave no garbage.
        keep_only(theirs.fileno())
        # By lines: nothing flushes it at the end.
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
        asyncio.run(_serve(theirs, remote, connections))
        status = 0
    except BaseException:  # noqa: BLE001 - os._exit would swallow it.
        traceback.print_exc()
    finally:
        # Nothing else of this process's program may go on in the copy.
        os._exit(status)


async def _serve(connection: socket.socket, remote: Remote, connections: int) -> None:
    """Do what is asked for until the other end is closed."""
    from hacktree.client.http_transport import open_http_transport

    gc.freeze()
    gc.enable()
    reader, writer = await asyncio.open_connection(sock=connection)

    async def drain(_: int) -> None:
        # Reads from the server no faster than the pull reads from here.
        await writer.drain()

    try:
        async with open_http_transport(remote, real_patience(), connections, drain) as transport:
            await _Server(transport, writer).serve(reader)
    except UserError as error:
        # Of the configuration: nothing can be read.
        while (data := await receive(reader)) is not None:
            writer.write(framed(Failed(_REQUESTS.decode(data).number, _describe(error))))


class _DistantPart:
    """A `Part` that the pull writes: this process may outlive it for a moment, and must not."""

    def __init__(self, number: int, offset: int, etag: str, writer: asyncio.StreamWriter) -> None:
        self._number = number
        self._progress = (offset, etag)
        self._writer = writer

    def progress(self) -> tuple[int, str]:
        return self._progress if self._progress[1] else (0, "")

    def begin(self, offset: int, etag: str) -> None:
        self._progress = (offset, etag)
        self._writer.write(framed(Begin(self._number, offset, etag)))

    def write(self, data: bytes) -> None:
        offset, etag = self._progress
        self._progress = (offset + len(data), etag)
        self._writer.write(framed(Piece(self._number, data)))


class _Server:
    """Requests under way, each a task."""

    def __init__(self, transport: Transport, writer: asyncio.StreamWriter) -> None:
        self._transport = transport
        self._writer = writer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._counted = Count(0, 0)

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answer until the other end is closed; then the process ends."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_counting())
            while (data := await receive(reader)) is not None:
                request = _REQUESTS.decode(data)
                if isinstance(request, Cancel):
                    if task := self._tasks.get(request.number):
                        task.cancel()
                    continue
                self._tasks[request.number] = group.create_task(self._answer(request))
            # Not by tidying up: a name that is being looked up would be waited for.
            os._exit(0)

    async def _answer(self, request: Read | Save | ReadRange) -> None:
        number = request.number
        try:
            answer: Answer = Done(number, await self._execute(request))
        except (SourceError, OSError) as error:
            answer = Failed(number, _describe(error))
        finally:
            del self._tasks[number]
        self._count()
        self._writer.write(framed(answer))
        await self._writer.drain()

    async def _execute(self, request: Read | Save | ReadRange) -> bytes:
        transport = self._transport
        match request:
            case Read(_, path, max_size):
                return await transport.read(path, max_size)
            case Save(number, path, offset, etag, max_size):
                part = _DistantPart(number, offset, etag, self._writer)
                await transport.save(path, part, max_size)
            case ReadRange(number, path, start, end, max_size):

                def take(piece: bytes) -> None:
                    self._writer.write(framed(Piece(number, piece)))

                await transport.read_range(path, start, end, max_size, take)
        return b""

    def _count(self) -> None:
        """Say what came, ahead of what says that it is done."""
        traffic = self._transport.traffic
        count = Count(traffic.requests, traffic.bytes)
        if count != self._counted:
            self._counted = count
            self._writer.write(framed(count))

    async def _keep_counting(self) -> None:
        while True:
            await asyncio.sleep(_COUNTING)
            self._count()
