"""Promise: the farm as it is run: tokens, signed pushes, packs made by themselves, a tester's pull.

Every part is a process of its own, started by its command.
"""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.servers import hacktree_program, read_announcement


def hacktree(*words: str | Path, fails: int = 0, env: Mapping[str, str] | None = None) -> str:
    """Run a command; returns what it prints."""
    done = subprocess.run(
        [hacktree_program(), *map(str, words)],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == fails, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout if fails == 0 else done.stderr


@contextlib.contextmanager
def serving(farm: Path, log: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`hacktree serve` on a free port, ended by SIGTERM."""
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [hacktree_program(), "--repo", str(farm), "serve", "--listen", "127.0.0.1:0", *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    try:
        yield read_announcement(process, log), process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 0


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    """A signed archive whose branch `builds` CI's key may move."""
    path = tmp_path / "farm"
    hacktree("--repo", path, "init", "--mode", "archive")
    (path / "config.toml").write_text('min-free-space = "0"\n')
    (tmp_path / "keys").mkdir()
    keys = [tmp_path / "keys" / name for name in ("root", "targets", "ci")]
    founders: list[str | Path] = [
        "--root-key",
        keys[0],
        "--targets-key",
        keys[1],
        "--no-passphrase",
    ]
    hacktree("--repo", path, "trust", "init", *founders)
    hacktree("trust", "new-key", keys[2], "--no-passphrase")
    delegate: list[str | Path] = ["delegate", "builds", "--key", keys[2], "--sign-with", keys[1]]
    hacktree("--repo", path, "trust", *delegate)
    return path


def build(tree: Path, number: int) -> Path:
    """A tree of which a little changes from build to build."""
    tree.mkdir(exist_ok=True)
    for name in range(5):
        (tree / f"f{name}").write_bytes(bytes(range(256)) * 300 + f"{number} {name}".encode())
    return tree


def jobs_of(farm: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(hacktree("--repo", farm, "jobs", "list", "--json"))
    return listed


def test_from_a_push_to_a_testers_machine(farm: Path, tmp_path: Path) -> None:
    create = ("token", "create", "--can", "push:builds", "--expires", "90d")
    secret = hacktree("--repo", farm, *create).strip()
    fingerprint = json.loads(hacktree("--repo", farm, "trust", "status", "--json"))
    machine = tmp_path / "machine"
    machine.mkdir()
    with serving(farm, tmp_path / "log", "--api") as (url, _):
        signed = ("--server", url, "--sign-with", tmp_path / "keys/ci")
        cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HACKTREE_TOKEN": secret}
        anchor = ("--root-fingerprint", fingerprint["root-fingerprint"])
        hacktree("push", "builds", build(tmp_path / "tree", 1), *signed, *anchor, env=cache)
        sysroot = {"HACKTREE_SYSROOT": str(machine)}
        hacktree("remote", "add", "farm", url, *anchor, env=sysroot)
        hacktree("pull", "--pull-only", "builds", env=sysroot)
        hacktree("push", "builds", build(tmp_path / "tree", 2), *signed, env=cache)
        # Whoever guesses is slowed down, and told for how long.
        for _ in range(30):
            wrong = urllib.request.Request(
                f"{url}/api/v1/pushes", b"", {"Authorization": f"Bearer {secret[:-3]}abc"}
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(wrong)
            refused.value.close()
            if refused.value.code == 429:
                break
        assert refused.value.code == 429
        assert int(refused.value.headers["Retry-After"]) > 0
        assert hacktree("--repo", farm, "jobs", "run", fails=6)
        report = json.loads(hacktree("pull", "--pull-only", "--json", "builds", env=sysroot))
        assert report["changed"]
    # What the server had no time for is done by hand, or by the next server.
    hacktree("--repo", farm, "jobs", "run")
    assert all(job["state"] == "done" for job in jobs_of(farm))
    assert list((farm / "packs").iterdir())
    shown = json.loads((farm / "dashboard/dashboard.json").read_bytes())
    assert [build["sequence"] for build in shown["branches"][0]["builds"]] == [2, 1]
    assert shown["pack-count"] == len(list((farm / "packs").iterdir()))
    assert (tmp_path / "log").read_text().count("Traceback") == 0


def test_the_log_can_be_json(farm: Path, tmp_path: Path) -> None:
    """A refusal is found in it by the id that the client was told."""
    with serving(farm, tmp_path / "log", "--api", "--access-log", "--log-json") as (url, _):
        with urllib.request.urlopen(f"{url}/trust/timestamp.json") as response:
            assert response.status == 200
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/api/v1/jobs")
        told = refused.value.headers["X-Request-Id"]
        refused.value.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    answered = [line for line in lines if line.get("path") == "/trust/timestamp.json"]
    assert [line["status"] for line in answered] == [200]
    of_refusal = [line for line in lines if line.get("request-id") == told]
    assert {line["logger"] for line in of_refusal} >= {"hacktree.server.api"}
    assert all(line["status"] == 401 for line in of_refusal)


def test_a_second_server_does_not_take_the_api(farm: Path, tmp_path: Path) -> None:
    with serving(farm, tmp_path / "log", "--api"):
        assert "locked" in hacktree("--repo", farm, "serve", "--api", fails=6)
        with serving(farm, tmp_path / "log2") as (url, _):
            with urllib.request.urlopen(f"{url}/trust/timestamp.json") as response:
                assert response.status == 200
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{url}/api/v1/pushes", b"")
            refused.value.close()


def test_secrets_and_private_files_are_not_served(farm: Path, tmp_path: Path) -> None:
    secret = hacktree("--repo", farm, "token", "create", "--can", "push:**", "--expires", "1d")
    with serving(farm, tmp_path / "log", "--api", "--access-log") as (url, _):
        for path in ("state/server.sqlite", "state/trust/lock", "config.toml", "jobs.lock"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{url}/{path}")
            refused.value.close()
            assert refused.value.code == 404
    stored = (farm / "state/server.sqlite").read_bytes()
    assert secret.strip().split("_", 2)[2].encode() not in stored
    connection = sqlite3.connect(farm / "state/server.sqlite")
    assert connection.execute("SELECT count(*) FROM tokens").fetchone() == (1,)
    connection.close()
    assert (farm / "state/server.sqlite").stat().st_mode & 0o777 == 0o600
