"""Reading from a web server through the process that does it, see `network_process.py`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from hacktree.client.network_process import (
    Answer,
    Begin,
    Cancel,
    Count,
    Done,
    Failed,
    NetworkProcess,
    Piece,
    Read,
    ReadRange,
    Request,
    Save,
    framed,
    receive,
    revive,
)
from hacktree.client.remote import Remote
from hacktree.client.source import SourceError, Take, Traffic
from hacktree.client.transport import Part

_ANSWERS: Final = msgspec.msgpack.Decoder(Answer)


def _unasked(*_: object) -> None:
    raise ValueError("the process that reads the network sent what nobody asked for")


class _Call(msgspec.Struct, frozen=True):
    """Somebody waits for `answer`; `take` and `begin` are told what comes before it."""

    answer: asyncio.Future[bytes]
    take: Take = _unasked
    begin: Callable[[int, str], None] = _unasked


class ProcessTransport:
    """See `Transport`; made by `open_process_transport`."""

    def __init__(self, location: str, writer: asyncio.StreamWriter) -> None:
        self.traffic = Traffic()
        self._location = location
        self._writer = writer
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._lost = False

    async def read(self, path: str, max_size: int) -> bytes:
        """A body at once."""
        return await self._call(lambda number: Read(number, path, max_size))

    async def save(self, path: str, part: Part, max_size: int) -> None:
        """A large body."""
        offset, etag = part.progress()
        await self._call(
            lambda number: Save(number, path, offset, etag, max_size), part.write, part.begin
        )

    async def read_range(self, path: str, start: int, end: int, max_size: int, take: Take) -> None:
        """A range of a body."""
        await self._call(lambda number: ReadRange(number, path, start, end, max_size), take)

    async def receive_all(self, reader: asyncio.StreamReader) -> None:
        """Hand on answers, until the process is gone."""
        try:
            while (data := await receive(reader)) is not None:
                self._take(_ANSWERS.decode(data))
        finally:
            self._lost = True
            for call in self._calls.values():
                if not call.answer.done():
                    call.answer.set_exception(self._lost_error())

    async def _call(
        self,
        request: Callable[[int], Request],
        take: Take = _unasked,
        begin: Callable[[int, str], None] = _unasked,
    ) -> bytes:
        if self._lost:
            raise self._lost_error()
        self._number += 1
        number = self._number
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[number] = _Call(answer, take, begin)
        self._send(request(number))
        try:
            return await answer
        except asyncio.CancelledError:
            self._send(Cancel(number))
            raise
        finally:
            del self._calls[number]

    def _send(self, request: Request) -> None:
        if not self._lost:
            self._writer.write(framed(request))

    def _take(self, message: Answer) -> None:
        if isinstance(message, Count):
            self.traffic.requests, self.traffic.bytes = message.requests, message.bytes
            return
        call = self._calls.get(message.number)
        if call is None or call.answer.done():
            return
        try:
            match message:
                case Begin(_, offset, etag):
                    call.begin(offset, etag)
                case Piece(_, data):
                    call.take(data)
                case Done(_, data):
                    call.answer.set_result(data)
                case Failed(_, failure):
                    call.answer.set_exception(revive(failure))
        except Exception as error:  # noqa: BLE001 - of whoever called, who gets it.
            self._send(Cancel(message.number))
            call.answer.set_exception(error)

    def _lost_error(self) -> SourceError:
        return SourceError(
            self._location,
            "the process that reads it has ended",
            hint="Run the command again: it continues where it stopped.",
        )


@asynccontextmanager
async def open_process_transport(
    remote: Remote, process: NetworkProcess
) -> AsyncIterator[ProcessTransport]:
    """What reads from `remote` through `process`."""
    reader, writer = await asyncio.open_connection(sock=process.connection)
    transport = ProcessTransport(remote.shown_url, writer)
    receiving = asyncio.create_task(transport.receive_all(reader))
    try:
        yield transport
    finally:
        receiving.cancel()
        writer.close()
