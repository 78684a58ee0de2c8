"""The command: what it prints, how it fails, and that a killed one continues."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from hacktree.client.source import SourceError
from hacktree.common.cli.main import main
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import archive_name
from hacktree.common.repository.repository import open_repository
from support.certificates import make_certificates, make_untimely
from support.faulty_server import faulty_server, stall
from support.pulling import FakeTime, assert_whole, make_repository, patience, pull_from
from support.servers import RunningServer, hacktree_serving, nginx_serving
from support.trees import Spec, make_commit

LARGE = os.urandom(6 << 20)
TREE: dict[str | bytes, Spec] = {"etc/motd": b"hello", "usr/large": LARGE}
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


@pytest.mark.parametrize("serving", [nginx_serving, hacktree_serving])
def test_a_server_that_wants_a_client_certificate_gets_it_or_a_hint_says_so(
    serving: Callable[..., AbstractContextManager[RunningServer]],
    tmp_path: Path,
    mirror: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "hacktree.client.network_process.real_patience", lambda: patience(FakeTime())
    )
    publisher = make_repository(tmp_path / "origin")
    head = make_commit(publisher, {"f": b"x"})
    (tmp_path / "tls").mkdir()
    tls = make_certificates(tmp_path / "tls")
    base = ["--repo", str(mirror)]
    authority = ["--unsigned", "--tls-ca", str(tls.authority)]
    own = ["--tls-cert", str(tls.client_certificate), "--tls-key", str(tls.client_key)]
    with serving(publisher.path, tls=tls.server) as server:
        assert main([*base, "remote", "add", "stranger", server.url, "--unsigned"]) == 0
        assert main([*base, "remote", "add", "nameless", server.url, *authority]) == 0
        assert main([*base, "remote", "add", "farm", server.url, *authority, *own]) == 0
        capsys.readouterr()
        assert main([*base, "pull", "stranger:fastqa"]) == 4
        assert "--tls-ca" in capsys.readouterr().err
        status = main([*base, "pull", "nameless:fastqa"])
        shown = capsys.readouterr().err
        if serving is nginx_serving:
            assert status == 4
        assert status == 0 or "--tls-cert" in shown
        assert main([*base, "pull", "farm:fastqa"]) == 0
    assert_whole(open_repository(mirror), head)


@pytest.mark.parametrize("url", ["https://127.0.0.1", "http://127.0.0.1"])
def test_a_server_is_believed_by_the_certificates_of_the_machine(
    url: str, tmp_path: Path, mirror: Path
) -> None:
    """They are read at the first connection, or when a server sends the client on to TLS."""
    publisher = make_repository(tmp_path / "origin")
    head = make_commit(publisher, {"f": b"x"})
    (tmp_path / "tls").mkdir()
    tls = make_certificates(tmp_path / "tls")
    with hacktree_serving(publisher.path, tls=tls.server) as server, redirecting(server.url) as to:
        shown = server.url if url.startswith("https") else to
        assert main(["--repo", str(mirror), "remote", "add", "farm", shown, "--unsigned"]) == 0
        for authority, status in (("/dev/null", 4), (tls.authority, 0)):
            done = subprocess.run(
                [*COMMAND, "--repo", mirror, "pull", "farm:fastqa"],
                env={**os.environ, "SSL_CERT_FILE": str(authority), "SSL_CERT_DIR": "/dev/null"},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == status, done.stderr
            assert ("--tls-ca" in done.stderr) is bool(status)
    assert_whole(open_repository(mirror), head)


@contextmanager
def redirecting(url: str) -> Iterator[str]:
    """A server that sends everybody on to the same path below `url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(301)
            self.send_header("Location", url.rstrip("/") + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("begins", [-20, 20])
def test_a_certificate_of_another_time_asks_for_the_clock(
    begins: int, tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is over, one that has not begun: mostly it is this machine that is wrong."""
    publisher = make_repository(tmp_path / "origin")
    tls = make_untimely(tmp_path, begins)
    base = ["--repo", str(mirror)]
    with hacktree_serving(publisher.path, tls=tls) as server:
        words = ("remote", "add", "farm", server.url, "--unsigned", "--tls-ca")
        assert main([*base, *words, str(tls.certificate)]) == 0
        assert main([*base, "pull", "farm:fastqa"]) == 4
    assert "Is the clock right? It says 20" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
async def test_the_environments_proxy_is_asked(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = make_repository(tmp_path / "origin")
    make_commit(publisher, {"f": b"x"})
    async with faulty_server(publisher.path) as server:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(variable, server.url)
        mirror = make_repository(tmp_path / "mirror")
        with pytest.raises(SourceError):
            await pull_from(mirror, "http://builds.invalid/tree")
    assert server.requests[0][0] == "http://builds.invalid/tree/refs/fastqa"


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
