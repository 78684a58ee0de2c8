"""`hacktree push` as people and build jobs run it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hacktree.common.repository.refs import list_refs, read_ref
from hacktree.common.repository.repository import Repository
from support.pulling import assert_whole, make_repository
from support.push_server import CI_SECRET, FASTQA_SECRET
from support.pushing import PushHost, running_host
from support.servers import hacktree_program
from support.trees import make_commit


@pytest.fixture
def host(tmp_path: Path) -> Iterator[PushHost]:
    """A server with an empty repository."""
    with running_host(make_repository(tmp_path / "server")) as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Repository:
    """An archive with one build."""
    repository = make_repository(tmp_path / "source")
    make_commit(repository, {"a": b"content"}, branch="builds")
    return repository


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, and a token in the environment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HACKTREE_TOKEN", CI_SECRET)
    return tmp_path / "cache"


def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """The command; fails unless it exits with `status`."""
    done = subprocess.run(
        [hacktree_program(), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    counted: dict[str, Any] = json.loads(done.stdout)
    return counted


def test_a_commit_is_pushed_by_any_revision(source: Repository, host: PushHost) -> None:
    head = read_ref(source, "builds")
    assert head is not None
    options = ["--repo", source.path, "--json", "push", "builds", head.hex()[:10]]
    done = figures(run(*options, "--server", host.url))
    assert (done["commit"], done["sent-objects"], done["requests"]) == (head.hex(), 2, 4)
    assert figures(run(*options, "--server", host.url))["requests"] == 1
    assert_whole(host.repository, head)
    said = run("--repo", source.path, "push", "builds", "builds", "--server", host.url).stdout
    assert said == f"builds has {head.hex()} already\n"


def test_a_dry_run_says_what_is_sent_at_most(source: Repository, host: PushHost) -> None:
    """And asks nobody."""
    options = ["--repo", source.path, "push", "builds", "builds", "--dry-run"]
    said = run(*options, "--server", host.url).stdout
    assert "at most 2 objects" in said
    plan = figures(run("--json", *options, "--server", host.url))
    assert (plan["objects"], plan["batches"]) == (2, 1)
    assert host.requests() == []
    run(
        "--repo", source.path, "push", "builds", source.path, "-n", "--server", "http://x", status=2
    )


def test_a_directory_is_pushed_build_by_build(tmp_path: Path, host: PushHost, cache: Path) -> None:
    """Without a repository: the commit follows the server's head, from the cache or pulled."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/issue").write_text("first\n")
    push = ["--json", "push", "builds", tree, "--server", host.url]
    first = figures(run(*push))["commit"]
    (tree / "etc/issue").write_text("second\n")
    second = figures(run(*push))
    assert second["sent-objects"] == 3
    assert figures(run(*push))["requests"] == 1, "the same tree is no new build"
    (archive,) = (cache / "hacktree/push").iterdir()
    archive.rename(tmp_path / "lost")
    (tree / "etc/issue").write_text("third\n")
    third = figures(run(*push, "--version", "48.1", "-m", "job=7"))
    assert third["sent-objects"] == 3
    head = list_refs(host.repository)["builds"]
    commit = host.repository.load_commit(head)
    assert commit.sequence == 3
    assert commit.parents[0].hex() == second["commit"]
    assert (commit.version, commit.metadata["job"]) == ("48.1", "7")
    assert host.repository.load_commit(commit.parents[0]).parents[0].hex() == first


def test_a_directory_goes_through_the_repository_that_is_named(
    source: Repository, tmp_path: Path, host: PushHost, cache: Path
) -> None:
    (tmp_path / "tree").mkdir()
    command = ["--repo", source.path, "--json", "push", "builds", tmp_path / "tree"]
    assert figures(run(*command, "--server", host.url))["builds"] == 2
    assert list_refs(source) == list_refs(host.repository)
    assert not cache.exists()


def test_a_token_comes_from_a_file(
    source: Repository, tmp_path: Path, host: PushHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HACKTREE_TOKEN")
    command = ["--repo", source.path, "push", "builds", "builds", "--server", host.url]
    assert "needs a token" in run(*command, status=2).stderr
    token = tmp_path / "token"
    token.write_text(f"{FASTQA_SECRET}\n")
    refused = run(*command, "--token-file", token, status=2).stderr
    assert "token fastqa may not push to builds" in refused
    assert FASTQA_SECRET not in refused
    token.write_text(f"{CI_SECRET}\n")
    run(*command, "--token-file", token)
    assert run(*command, "--token-file", tmp_path / "absent", status=8).stderr


def test_what_went_wrong_decides_the_exit_status(
    source: Repository, tmp_path: Path, host: PushHost
) -> None:
    run("--repo", source.path, "push", "builds", "builds", "--server", host.url)
    other = make_repository(tmp_path / "other")
    make_commit(other, {"b": b"another"}, branch="builds")
    push = ["push", "builds", "builds", "--server"]
    moved = run("--repo", other.path, *push, host.url, status=6).stderr
    head = list_refs(host.repository)["builds"]
    assert f"builds is at {head.hex()} (build 1, " in moved
    assert "serve --api" in run("--repo", source.path, *push, f"{host.url}/x", status=4).stderr
    run("--repo", source.path, *push, "file:///srv", status=2)
    run("--repo", source.path, "push", "builds", "nothing", "--server", host.url, status=2)
