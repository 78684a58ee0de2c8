"""A server that takes the connection and says nothing: one is told at once, and it ends."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from hacktree.client import retry, waiting
from hacktree.client.remote import Remote, add_remote
from hacktree.client.retry import RetryPolicy
from hacktree.common.cli.main import main
from support.faulty_server import FaultyServer, faulty_server, say_nothing
from support.sysroots import make_sysroot

REF = "refs/fastqa"
VERDICTS = "dashboard/verdicts.json"


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultyServer]:
    """Everything that is asked of it waits; the machine's patience is short, as far as it goes."""
    short = partial(RetryPolicy, attempts=2, low_speed_seconds=0.5, first_delay=0.01)
    monkeypatch.setattr(retry, "RetryPolicy", short)
    monkeypatch.setattr(waiting, "SILENT_SECONDS", 0.1)
    async with faulty_server(tmp_path) as faulty:
        for path in (REF, VERDICTS):
            faulty.always[path] = say_nothing
        sysroot = make_sysroot(tmp_path / "sysroot")
        add_remote(sysroot.repository, Remote("farm", faulty.url, "unsigned"))
        yield faulty


COMMANDS = (
    ["pull", "fastqa"],
    ["bisect", "start", "fastqa", "--good", "fastqa~3"],
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
async def test_a_person_is_told_for_whom_they_wait(
    server: FaultyServer, tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """At each attempt; at the end the server is named, and what to do."""
    command = ["--sysroot", str(tmp_path / "sysroot"), *words]
    assert await asyncio.to_thread(main, command) == 4
    said = capfd.readouterr().err.splitlines()
    assert said[0] == said[1] == f"waiting for {server.url}/{REF}, which has not answered yet"
    assert said[2].startswith(f"hacktree: {server.url}/{REF}: the server is there, but did not")
    assert "(2 attempts)" in said[2]
    assert "hacktree remote list" in said[3]
    assert [path for path, _ in server.requests] == [REF, REF], "the silence is met once"


async def test_who_wants_quiet_gets_the_error_alone(
    server: FaultyServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["--sysroot", str(tmp_path / "sysroot"), "pull", "--quiet", "fastqa"]
    assert await asyncio.to_thread(main, command) == 4
    assert "waiting" not in capfd.readouterr().err
