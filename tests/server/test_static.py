"""What only this server does: slow disks, faults under its hands, clients that leave."""

import asyncio
import errno
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.test_utils import TestClient

from hacktree.server import static
from hacktree.server.beneath import open_beneath
from hacktree.server.listening import TcpAddress, listen_on
from hacktree.server.serving import serve_until
from support.layouts import Published, published_layout

Client = TestClient[web.Request, web.Application]
ClientFactory = Callable[[web.Application], Awaitable[Client]]


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Published]:
    """A repository of this test's own."""
    with published_layout(tmp_path / "repository") as layout:
        yield layout


@pytest.fixture
async def client(aiohttp_client: ClientFactory, layout: Published) -> Client:
    """A client of the application over the layout."""
    return await aiohttp_client(static.make_app(layout.directory))


async def get(client: Client, path: str) -> tuple[int, bytes]:
    # A body that is cut short on a kept connection would be waited for.
    async with asyncio.timeout(30), client.get(path) as response:
        return response.status, await response.read()


def failing(number: int) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP])
async def test_what_is_not_in_the_page_cache_is_read_all_the_same(
    client: Client, layout: Published, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "preadv", failing(number))
    for path in (layout.file, layout.ref):
        assert await get(client, path) == (200, layout.content(path))


async def test_what_is_partly_in_the_page_cache_is_read_whole(
    client: Client, layout: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", lambda *_: 7)
    assert await get(client, layout.file) == (200, layout.content(layout.file))


async def test_a_disk_error_is_the_server_s_fault(
    client: Client,
    layout: Published,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client may try again elsewhere; the operator finds file and cause in the log."""
    monkeypatch.setattr(os, "preadv", failing(errno.EIO))
    async with client.get(layout.file) as response:
        assert response.status == 500
        assert response.headers["Cache-Control"] == "no-store"
        assert (await response.json())["error"]["code"] == "internal-server-error"
    assert [record.getMessage() for record in caplog.records] == [
        f"{layout.file}: Input/output error"
    ]


async def test_a_server_short_of_descriptors_asks_for_patience(
    client: Client, layout: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "open_beneath", failing(errno.EMFILE))
    async with client.get(layout.file) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "5"
        assert response.headers["Cache-Control"] == "no-store"


async def test_a_file_that_this_user_may_not_read_is_not_published(
    client: Client, layout: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "open_beneath", failing(errno.EACCES))
    assert (await get(client, layout.file))[0] == 404


async def test_a_bug_is_a_500_in_json(
    client: Client,
    layout: Published,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(static, "decide", broken)
    async with client.get(layout.file) as response:
        assert response.status == 500
        assert response.headers["Cache-Control"] == "no-store"
        assert json.loads(await response.text())["error"]["code"] == "internal-server-error"
    assert "ZeroDivisionError" in caplog.text


async def test_a_small_file_that_shrinks_is_never_sent_short(
    client: Client, layout: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the fstat() that gave the Content-Length and the read."""
    monkeypatch.setattr(static, "open_beneath", opening_then_truncating_to(5))
    assert (await get(client, layout.file))[0] == 500


async def test_a_large_file_that_shrinks_breaks_the_connection(
    client: Client, layout: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client must see that the body is short; a kept connection would leave it waiting."""
    monkeypatch.setattr(static, "open_beneath", opening_then_truncating_to(300_000))
    with pytest.raises(aiohttp.ClientError):
        await get(client, layout.large)


def opening_then_truncating_to(
    size: int,
) -> Callable[[Path, tuple[str, ...]], tuple[int, os.stat_result]]:
    def open_then_truncate(
        directory: Path, components: tuple[str, ...]
    ) -> tuple[int, os.stat_result]:
        opened = open_beneath(directory, components)
        os.truncate(directory.joinpath(*components), size)
        return opened

    return open_then_truncate


async def test_a_client_that_leaves_takes_nothing_with_it(
    client: Client, layout: Published, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of a large body: no error in the log, the file closed, the next one served."""
    big = layout.path(layout.large)
    os.truncate(big, 256 * 1024 * 1024)
    async with client.get(layout.large) as response:
        await response.content.readexactly(1000)
        response.close()
    assert await get(client, layout.ref) == (200, layout.content(layout.ref))
    await client.close()
    assert caplog.records == []
    assert str(big) not in open_files()


async def test_a_client_that_leaves_between_head_and_body_costs_no_traceback(
    layout: Published, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """sendfile() refuses a closing transport with a RuntimeError: that would look like a bug."""
    prepare = web.StreamResponse.prepare

    async def prepare_and_hang_up(
        response: web.StreamResponse, request: web.BaseRequest
    ) -> AbstractStreamWriter | None:
        writer = await prepare(response, request)
        assert request.transport is not None
        request.transport.close()
        return writer

    monkeypatch.setattr(web.StreamResponse, "prepare", prepare_and_hang_up)
    # Not aiohttp's test server, which cancels a handler whose client has gone.
    stop, ready = asyncio.Event(), asyncio.Event()
    listening = listen_on(TcpAddress("127.0.0.1", 0))
    task = asyncio.create_task(
        serve_until(stop, layout.directory, [listening], None, lambda _: ready.set())
    )
    await ready.wait()
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    writer.write(f"GET {layout.large} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    stop.set()
    await task
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""
    assert caplog.records == []


def open_files() -> set[str]:
    return {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
