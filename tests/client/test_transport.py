"""Transport: what passes is retried, what is too much is refused, what broke off continues."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hacktree.client import network_process
from hacktree.client.connect import open_source, open_source_beside
from hacktree.client.network_process import fork_network_process
from hacktree.client.retry import RetryPolicy, SpeedGuard, parse_retry_after
from hacktree.client.source import NotServedError, OversizeError, Source, SourceError
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.objects.names import BranchName
from hacktree.common.objects.tree import FileEntry
from hacktree.common.repository.objectnames import archive_name
from support.faulty_server import (
    FaultyServer,
    endless,
    faulty_server,
    hang_up,
    replaced,
    stall,
    status,
    truncated,
)
from support.pulling import FakeTime, patience, remote_at

BRANCH = BranchName("fastqa")
REF = "refs/fastqa"
BODY = b"0" * 64 + b"\n"
CONTENT = bytes(range(256)) * 4096
ENTRY = FileEntry(b"f", 0o644, 0, 0, (), hash_bytes(CONTENT), len(CONTENT))
CONTENT_PATH = f"objects/{archive_name(ENTRY.id)}"
POLICY = RetryPolicy(low_speed_seconds=5)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FaultyServer]:
    for path, data in ((REF, BODY), (CONTENT_PATH, CONTENT)):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(data)
    async with faulty_server(tmp_path) as faulty:
        yield faulty


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def source_here(server: FaultyServer, time: FakeTime) -> AsyncIterator[Source]:
    """Read in this process, by a clock that a test can look at."""
    async with open_source(remote_at(server.url), patience(time, POLICY), 2) as opened:
        yield opened


@pytest.fixture(params=["here", "beside"])
async def source(
    request: pytest.FixtureRequest, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Source]:
    """Read in this process, or by one beside it."""
    remote = remote_at(server.url)
    if request.param == "here":
        async with open_source(remote, patience(FakeTime(), POLICY), 2) as opened:
            yield opened
        return
    monkeypatch.setattr(network_process, "real_patience", lambda: patience(FakeTime(), POLICY))
    with fork_network_process(remote, 2) as process:
        async with open_source_beside(remote, process) as opened:
            yield opened


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
async def test_a_passing_failure_is_retried_after_a_delay(
    code: int, server: FaultyServer, source_here: Source, time: FakeTime
) -> None:
    server.faults[REF].extend([status(f"{code} X"), truncated(9), status(f"{code} X")])
    assert await source_here.read_ref(BRANCH) == BODY
    assert len(time.slept) == 3
    assert time.slept == sorted(time.slept)
    assert source_here.traffic.requests == 4


async def test_a_connection_closed_without_an_answer_is_tried_again_and_then_named(
    server: FaultyServer, source: Source
) -> None:
    server.faults[REF].append(hang_up)
    assert await source.read_ref(BRANCH) == BODY
    server.always[REF] = hang_up
    with pytest.raises(SourceError, match=r"/refs/fastqa: .* without an answer \(5 attempts\)"):
        await source.read_ref(BRANCH)


async def test_a_lasting_failure_ends_after_five_attempts_and_names_the_url(
    server: FaultyServer, source_here: Source, time: FakeTime
) -> None:
    server.always[REF] = status("500 Broken")
    with pytest.raises(SourceError, match=r"/refs/fastqa: HTTP 500 Broken \(5 attempts\)") as info:
        await source_here.read_ref(BRANCH)
    assert len(server.asked(REF)) == 5
    assert info.value.exit_code == 4
    assert info.value.hint


@pytest.mark.parametrize(("header", "least", "most"), [("7", 7, 7), ("999999", 60, 60)])
async def test_retry_after_is_honoured_within_reason(
    header: str,
    least: float,
    most: float,
    server: FaultyServer,
    source_here: Source,
    time: FakeTime,
) -> None:
    server.faults[REF].append(status("429 Slow down", f"\nRetry-After: {header}"))
    await source_here.read_ref(BRANCH)
    assert least <= time.slept[0] <= most


@pytest.mark.parametrize("value", [None, "", "soon", "-5", "Fri, 31 Dec 1999 23:59:59 GMT"])
def test_a_retry_after_that_is_no_number_is_ignored(value: str | None) -> None:
    assert parse_retry_after(value) is None


async def test_what_is_not_served_is_not_asked_for_twice(
    server: FaultyServer, source: Source
) -> None:
    with pytest.raises(NotServedError, match="404"):
        await source.read_ref(BranchName("absent"))
    assert len(server.asked("refs/absent")) == 1


async def test_a_refusal_is_not_retried(server: FaultyServer, source: Source) -> None:
    server.always[REF] = status("403 Forbidden")
    with pytest.raises(SourceError, match="403"):
        await source.read_ref(BRANCH)
    assert len(server.asked(REF)) == 1


async def test_an_endless_body_is_cut_off(server: FaultyServer, source: Source) -> None:
    server.always[REF] = endless
    with pytest.raises(OversizeError, match="65 bytes"):
        await source.read_ref(BRANCH)
    assert source.traffic.bytes < 10 << 20


async def test_a_body_that_claims_too_much_is_not_read(
    server: FaultyServer, source: Source
) -> None:
    server.always[REF] = replaced(bytes(66))
    with pytest.raises(OversizeError):
        await source.read_ref(BRANCH)
    assert source.traffic.bytes == 0


async def test_compression_on_the_way_is_refused(server: FaultyServer, source: Source) -> None:
    server.always[REF] = replaced(BODY, "\nContent-Encoding: gzip")
    with pytest.raises(SourceError, match="Content-Encoding gzip"):
        await source.read_ref(BRANCH)


async def test_a_large_body_continues_where_it_broke_off(
    server: FaultyServer, source: Source, tmp_path: Path
) -> None:
    server.faults[CONTENT_PATH].append(truncated(500_000))
    part = tmp_path / "x.part"
    await source.save_content(ENTRY, part)
    assert part.read_bytes() == CONTENT
    second = server.asked(CONTENT_PATH)[1]
    assert (second["range"], second["if-range"]) == ("bytes=500000-", '"e"')
    assert source.traffic.bytes == len(CONTENT)


async def test_progress_renews_patience(
    server: FaultyServer, source: Source, tmp_path: Path
) -> None:
    async def one_more(exchange):  # type: ignore[no-untyped-def]
        start = int(exchange.headers.get("range", "bytes=0-")[6:-1])
        line = "206 X" if start else "200 OK"
        head = (
            f'HTTP/1.1 {line}\nContent-Length: {len(CONTENT) - start}\nETag: "e"'
            f"\nContent-Range: bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        )
        await exchange.send(head, CONTENT[start : start + 100_000])
        exchange.writer.close()

    server.faults[CONTENT_PATH].extend([one_more] * 9)
    await source.save_content(ENTRY, tmp_path / "x.part")
    assert (tmp_path / "x.part").read_bytes() == CONTENT
    assert len(server.asked(CONTENT_PATH)) == 10


@pytest.mark.parametrize("etag", ['W/"e"', '"older"', ""])
async def test_without_the_same_strong_etag_a_body_starts_again(
    etag: str, server: FaultyServer, source: Source, tmp_path: Path
) -> None:
    server.faults[CONTENT_PATH].append(truncated(500_000, etag))
    part = tmp_path / "x.part"
    await source.save_content(ENTRY, part)
    assert part.read_bytes() == CONTENT
    assert "range" not in server.asked(CONTENT_PATH)[1] or etag == '"older"'


async def test_a_range_that_is_no_longer_there_starts_again(
    server: FaultyServer, source: Source, tmp_path: Path
) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(bytes(10))
    (tmp_path / "x.part.etag").write_text('"e"')
    server.faults[CONTENT_PATH].append(status("416 Range Not Satisfiable"))
    await source.save_content(ENTRY, part)
    assert part.read_bytes() == CONTENT


async def test_a_server_that_stops_sending_is_given_up(server: FaultyServer) -> None:
    server.always[REF] = stall(3, asyncio.Event())
    policy = RetryPolicy(attempts=2, low_speed_seconds=0.05)
    async with open_source(remote_at(server.url), patience(FakeTime(), policy), 2) as source:
        with pytest.raises(SourceError, match=r"stopped answering \(2 attempts\)"):
            await source.read_ref(BRANCH)


async def test_a_server_that_is_not_there_is_named() -> None:
    async with open_source(remote_at("http://127.0.0.1:9/x"), patience(FakeTime()), 2) as source:
        with pytest.raises(SourceError, match=r"http://127.0.0.1:9/x/refs/fastqa"):
            await source.read_ref(BRANCH)


def test_a_trickle_is_noticed_after_a_whole_window() -> None:
    time = FakeTime()
    guard = SpeedGuard(RetryPolicy(), time.clock)
    for _ in range(29):
        time.now += 1
        assert not guard.is_too_slow(10)
    time.now += 1
    assert guard.is_too_slow(10)


def test_speed_is_judged_by_the_last_window_alone() -> None:
    time = FakeTime()
    guard = SpeedGuard(RetryPolicy(), time.clock)
    time.now += 30
    assert not guard.is_too_slow(10_000_000)
    time.now += 30
    assert guard.is_too_slow(29_000)


@pytest.mark.parametrize("random", [0.0, 0.5, 0.999])
def test_delays_grow_with_jitter_up_to_a_bound(random: float) -> None:
    policy = RetryPolicy()
    delays = [policy.delay(failures, None, random) for failures in range(1, 12)]
    assert delays == sorted(delays)
    assert policy.first_delay / 2 <= delays[0] <= policy.first_delay
    assert delays[-1] <= policy.longest_delay
