"""A web server that serves a directory and misbehaves where a test asks it to."""

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, what an honest server would send, and the connection."""

    path: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter

    async def send(self, head: str, body: bytes = b"") -> None:
        """Write a raw answer; `head` is a status line and headers."""
        self.writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        await self.writer.drain()


Fault = Callable[[Exchange], Awaitable[None]]


def status(line: str, headers: str = "") -> Fault:
    """Answer with this status; the connection stays usable."""

    async def fault(exchange: Exchange) -> None:
        await exchange.send(f"HTTP/1.1 {line}\nContent-Length: 0{headers}")

    return fault


def truncated(count: int, etag: str = '"e"') -> Fault:
    """Promise the whole body, send `count` bytes of it, hang up."""

    async def fault(exchange: Exchange) -> None:
        head = f"HTTP/1.1 200 OK\nContent-Length: {len(exchange.body)}\nETag: {etag}"
        await exchange.send(head, exchange.body[:count])
        exchange.writer.close()

    return fault


def replaced(body: bytes, headers: str = "") -> Fault:
    """Answer 200 with another body."""

    async def fault(exchange: Exchange) -> None:
        await exchange.send(f"HTTP/1.1 200 OK\nContent-Length: {len(body)}{headers}", body)

    return fault


async def hang_up(exchange: Exchange) -> None:
    """Close without an answer."""
    exchange.writer.close()


async def say_nothing(exchange: Exchange) -> None:
    """Keep the connection, and be silent until the client goes away."""
    await exchange.writer.drain()
    await asyncio.Event().wait()


async def endless(exchange: Exchange) -> None:
    """A chunked body without an end."""
    await exchange.send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked")
    with contextlib.suppress(ConnectionError):
        while True:
            exchange.writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await exchange.writer.drain()


def stall(count: int, reached: asyncio.Event, goes_on: asyncio.Event | None = None) -> Fault:
    """Send `count` bytes of the body, say so, then nothing until the client goes away or `goes_on`
    is set: then the rest.
    """

    async def fault(exchange: Exchange) -> None:
        head = f'HTTP/1.1 200 OK\nContent-Length: {len(exchange.body)}\nETag: "e"'
        await exchange.send(head, exchange.body[:count])
        reached.set()
        await (goes_on or asyncio.Event()).wait()
        exchange.writer.write(exchange.body[count:])
        await exchange.writer.drain()

    return fault


class FaultyServer:
    """`faults[path]` are used up one request at a time; without any, the file is served."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.always: dict[str, Fault] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers of every request for `path`."""
        return [headers for asked, headers in self.requests if asked == path]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._converse(reader, writer)
        finally:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                path = lines[0].split()[1].lstrip("/")
                pairs = (line.split(": ", 1) for line in lines[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                self.requests.append((path, headers))
                await self._answer(path, headers, writer)
            await writer.wait_closed()

    async def _answer(
        self, path: str, headers: dict[str, str], writer: asyncio.StreamWriter
    ) -> None:
        file = self.root / path
        exchange = Exchange(path, headers, file.read_bytes() if file.is_file() else b"", writer)
        if self.faults[path]:
            await self.faults[path].popleft()(exchange)
        elif path in self.always:
            await self.always[path](exchange)
        elif not file.is_file():
            await exchange.send("HTTP/1.1 404 Not Found\nContent-Length: 0")
        else:
            await self._serve(exchange)

    async def _serve(self, exchange: Exchange) -> None:
        body, start = exchange.body, 0
        if "range" in exchange.headers and exchange.headers.get("if-range") == '"e"':
            start = int(exchange.headers["range"].removeprefix("bytes=").rstrip("-"))
        line = "206 Partial Content" if start else "200 OK"
        head = f'HTTP/1.1 {line}\nContent-Length: {len(body) - start}\nETag: "e"'
        if start:
            head += f"\nContent-Range: bytes {start}-{len(body) - 1}/{len(body)}"
        await exchange.send(head, body[start:])


@contextlib.asynccontextmanager
async def faulty_server(root: Path) -> AsyncIterator[FaultyServer]:
    """Serve `root` on a free port."""
    faulty = FaultyServer(root)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(faulty.handle(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    faulty.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield faulty
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
