"""The command: what it prints, how it fails, and that a killed one continues."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hacktree.common.cli.main import main
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import archive_name
from hacktree.common.repository.repository import open_repository
from support.faulty_server import faulty_server, stall
from support.pulling import assert_whole, make_repository
from support.trees import make_commit

LARGE = os.urandom(6 << 20)
TREE = {"etc/motd": b"hello", "usr/large": LARGE}
COMMAND = [sys.executable, "-c", "from hacktree.common.cli.main import main; exit(main())"]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "mirror").path


def add_remote(mirror: Path, url: str) -> None:
    assert main(["--repo", str(mirror), "remote", "add", "farm", url, "--unsigned"]) == 0


def test_progress_as_json_ends_with_the_figures(
    tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher = make_repository(tmp_path / "origin")
    head = make_commit(publisher, TREE)
    add_remote(mirror, f"file://{publisher.path}")
    capsys.readouterr()
    assert main(["--repo", str(mirror), "pull", "fastqa", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["fetch-objects"], plan["fetch-bytes"]) == (2, len(LARGE) + 5)
    assert list((mirror / "refs").iterdir()) == []
    assert main(["--repo", str(mirror), "pull", "fastqa", "--json-progress"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["event"] == "plan"
    assert events[-1]["event"] == "done"
    assert events[-1]["commit"] == head.hex()
    assert_whole(open_repository(mirror), head)
    assert main(["--repo", str(mirror), "pull", "fastqa"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out


async def test_a_killed_pull_continues_inside_the_file(tmp_path: Path, mirror: Path) -> None:
    publisher = make_repository(tmp_path / "origin")
    head = make_commit(publisher, TREE)
    path = f"objects/{archive_name(hash_bytes(LARGE))}"
    part = mirror / "tmp/pull-0" / (archive_name(hash_bytes(LARGE)).replace("/", "") + ".part")
    async with faulty_server(publisher.path) as server:
        add_remote(mirror, server.url)
        server.faults[path].append(stall(5 << 20, asyncio.Event()))
        command = [*COMMAND, "--repo", str(mirror), "pull", "fastqa"]
        first = await asyncio.create_subprocess_exec(*command)
        while not (part.exists() and part.stat().st_size >= 1 << 20):
            assert first.returncode is None
            await asyncio.sleep(0.01)
        first.kill()
        await first.wait()
        kept = part.stat().st_size
        second = await asyncio.create_subprocess_exec(*command)
        assert await second.wait() == 0
        assert server.asked(path)[1]["range"] == f"bytes={kept}-"
    assert_whole(open_repository(mirror), head)
    assert list((mirror / "tmp").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_a_full_disk_is_an_error_that_leaves_nothing_published(
    mode: Mode, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher = make_repository(tmp_path / "origin")
    make_commit(publisher, {f"f{i}": os.urandom(1 << 20) for i in range(12)})
    mirror = make_repository(small_disk / "mirror", mode).path
    add_remote(mirror, f"file://{publisher.path}")
    assert main(["--repo", str(mirror), "pull", "fastqa"]) == 7
    assert "space" in capsys.readouterr().err.lower()
    assert list((mirror / "objects").glob("*/*")) == []
    assert list((mirror / "refs").iterdir()) == []


def test_a_read_only_disk_is_an_error_that_says_so(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher = make_repository(tmp_path / "origin")
    make_commit(publisher, {"f": b"x"})
    mirror = make_repository(small_disk / "mirror").path
    add_remote(mirror, f"file://{publisher.path}")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert main(["--repo", str(mirror), "pull", "fastqa"]) == 8
    assert "read-only" in capsys.readouterr().err.lower()
