"""The process that reads the network: what fails there arrives here, and it ends with the pull."""

import asyncio
import errno
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from hacktree.client.network_process import NetworkProcess, fork_network_process
from hacktree.client.process_transport import ProcessTransport, open_process_transport
from hacktree.client.source import NotServedError, OversizeError, SourceError
from hacktree.common.errors import UserError
from support.faulty_server import FaultyServer, endless, faulty_server, say_nothing, stall
from support.pulling import remote_at

BODY = bytes(range(256)) * 8192
SMALL = b"small"
GIVEN_UP = 20.0
"""Seconds in which whatever is to happen has happened."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FaultyServer]:
    (tmp_path / "body").write_bytes(BODY)
    (tmp_path / "small").write_bytes(SMALL)
    async with faulty_server(tmp_path) as faulty:
        yield faulty


@pytest.fixture
def process(server: FaultyServer) -> Iterator[NetworkProcess]:
    with fork_network_process(remote_at(server.url), 4) as forked:
        yield forked


@pytest.fixture
async def transport(
    server: FaultyServer, process: NetworkProcess
) -> AsyncIterator[ProcessTransport]:
    async with open_process_transport(remote_at(server.url), process) as opened:
        yield opened


class FullDisk:
    """A `Part` that has no room."""

    def progress(self) -> tuple[int, str]:
        return 0, ""

    def begin(self, offset: int, etag: str) -> None:
        pass

    def write(self, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "no room", "part")


async def test_failures_arrive_as_what_they_are(
    server: FaultyServer, transport: ProcessTransport
) -> None:
    with pytest.raises(NotServedError, match="no such file") as info:
        await transport.read("absent", 10)
    assert info.value.location == f"{server.url}/absent"
    assert "remote list" in info.value.hint
    with pytest.raises(OversizeError, match="more than the 4 bytes"):
        await transport.read("small", 4)
    assert await transport.read("small", 5) == SMALL
    assert (transport.traffic.requests, transport.traffic.bytes) == (3, 5)


async def test_tls_files_that_are_missing_are_named(server: FaultyServer, tmp_path: Path) -> None:
    remote = replace(remote_at(server.url), tls_ca=str(tmp_path / "none"))
    with fork_network_process(remote, 1) as process:
        async with open_process_transport(remote, process) as transport:
            for _ in range(2):
                with pytest.raises(UserError, match="its TLS files can't be used") as info:
                    await transport.read("small", 5)
                assert "remote show" in info.value.hint


async def test_what_fails_here_ends_one_request_alone(transport: ProcessTransport) -> None:
    with pytest.raises(OSError, match="no room") as info:
        await transport.save("body", FullDisk(), len(BODY))
    assert info.value.errno == errno.ENOSPC

    def refuse(_: bytes) -> None:
        raise ValueError("not this")

    with pytest.raises(ValueError, match="not this"):
        await transport.read_range("body", 5, 9, len(BODY), refuse)
    taken = bytearray()
    await transport.read_range("body", 255, 258, len(BODY), taken.extend)
    assert taken == b"\xff\x00\x01"


async def test_many_ranges_at_once_arrive_in_order_each(transport: ProcessTransport) -> None:
    taken = [bytearray() for _ in range(9)]
    ranges = [(1000 * i, len(BODY) - 3000 * i) for i in range(9)]
    await asyncio.gather(*[
        transport.read_range("body", *bounds, len(BODY), data.extend)
        for bounds, data in zip(ranges, taken, strict=True)
    ])  # fmt: skip
    assert [bytes(data) for data in taken] == [BODY[start:end] for start, end in ranges]
    assert transport.traffic.bytes >= sum(map(len, taken))


async def test_what_nobody_waits_for_is_not_read_on(
    server: FaultyServer, transport: ProcessTransport
) -> None:
    """With one connection less each time the fifth request would wait for ever."""
    server.always["body"] = say_nothing
    for _ in range(8):
        asked = len(server.requests)
        reading = asyncio.create_task(transport.read("body", len(BODY)))
        await until(lambda: len(server.requests) > asked)  # noqa: B023 - called at once
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert await transport.read("small", 5) == SMALL


async def test_progress_is_told_while_a_body_comes(
    server: FaultyServer, transport: ProcessTransport
) -> None:
    goes_on = asyncio.Event()
    server.always["body"] = stall(1 << 20, asyncio.Event(), goes_on)
    reading = asyncio.create_task(transport.read("body", len(BODY)))
    await until(lambda: transport.traffic.bytes >= 1 << 20)
    assert transport.traffic.requests == 1
    goes_on.set()
    assert await reading == BODY


async def test_it_reads_no_faster_than_the_pull_takes(
    server: FaultyServer, process: NetworkProcess, transport: ProcessTransport
) -> None:
    server.always["body"] = endless
    received = 0

    def count(piece: bytes) -> None:
        nonlocal received
        received += len(piece)
        time.sleep(0.02)  # Nothing is taken from the socket meanwhile.

    before = resident(process.pid)
    reading = asyncio.create_task(transport.read_range("body", 0, 1 << 40, 1 << 40, count))
    await until(lambda: received >= 8 << 20)
    assert resident(process.pid) - before < 16 << 20
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading


async def test_its_death_is_an_error_of_every_request(
    server: FaultyServer, process: NetworkProcess, transport: ProcessTransport
) -> None:
    server.always["body"] = say_nothing
    reading = asyncio.create_task(transport.read("body", len(BODY)))
    await until(lambda: bool(server.requests))
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(SourceError, match="the process that reads it has ended"):
        await asyncio.wait_for(reading, GIVEN_UP)
    with pytest.raises(SourceError, match="has ended"):
        await transport.read("small", 5)


async def test_it_ends_when_its_pull_is_killed(server: FaultyServer) -> None:
    """In the middle of a request; its end of the socket is all that tells it."""
    server.always["body"] = say_nothing
    pull = os.fork()
    if not pull:
        try:
            process = fork_network_process(remote_at(server.url), 1)
            asyncio.run(read_through(server.url, process))
        finally:
            os._exit(1)
    await until(lambda: bool(server.requests))
    child = child_of(pull)
    os.kill(pull, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, pull, 0)
    await until(lambda: state(child) == "Z")


async def read_through(url: str, process: NetworkProcess) -> None:
    async with open_process_transport(remote_at(url), process) as transport:
        await transport.read("body", len(BODY))


async def until(condition: Callable[[], bool]) -> None:
    """Look until it is so."""
    async with asyncio.timeout(GIVEN_UP):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


def child_of(pid: int) -> str:
    """The only child of a process that has one thread."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return child


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def state(pid: str) -> str:
    """As ps says it; "Z" also for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
