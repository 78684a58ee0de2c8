"""Promise: whenever `delta generate` is killed, the graph names only whole packs, and the next run
completes what was begun.
"""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.packreading import verify_pack
from hacktree.common.repository.packs import delete_retired, list_edges, retire_packs
from hacktree.common.repository.repository import Repository, open_repository
from support.kill import every_kill, fail_at
from support.trees import Spec, make_commit

HACKTREE = str(Path(sys.executable).parent / "hacktree")
CHANGED = 3


def tree(build: int) -> dict[str | bytes, Spec]:
    source = random.Random(7)
    return {
        f"usr/file{number}": source.randbytes(4000) + b"%d" % (build if number < CHANGED else 0)
        for number in range(6)
    }


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """Three builds, joined by packs up to the second."""
    path = tmp_path / "template"
    init_repository(path, Mode.ARCHIVE)
    repository = open_repository(path)
    for build in (1, 2):
        make_commit(repository, tree(build), branch="builds")
    subprocess.run(generate(path), check=True)
    make_commit(repository, tree(3), branch="builds")
    return path


def generate(repository: Path) -> list[str]:
    return [HACKTREE, "--repo", str(repository), "delta", "generate", "--quiet", "--jobs", "1"]


def reset(template: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    subprocess.run(["cp", "-a", str(template), str(work)], check=True)


def assert_graph_is_true(repository: Repository, least: int) -> None:
    edges = list_edges(repository)
    assert len(edges) >= least
    for edge in edges:
        assert verify_pack(repository, edge, None).problems == []


@pytest.mark.parametrize("syscall", ["fsync", "rename"])
def test_killed_at_every_durable_step(template: Path, tmp_path: Path, syscall: str) -> None:
    work = tmp_path / "work"
    command = [*generate(work), "--from", "builds~1", "--to", "builds"]
    reset(template, work)
    for _ in every_kill(command, syscall):
        repository = open_repository(work)
        assert_graph_is_true(repository, 2)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stderr == ""
        assert_graph_is_true(repository, 3)
        assert sum(edge.entries for edge in list_edges(repository)) == 3 * CHANGED
        assert list(repository.staging.iterdir()) == []
        reset(template, work)


def test_killed_while_it_encodes(template: Path, tmp_path: Path) -> None:
    """What was encoded by then is used; what was staged is swept away."""
    work = tmp_path / "work"
    reset(template, work)
    repository = open_repository(work)
    for first in (b"", b"!"):
        make_commit(repository, {f"f{n}": first + noise(n) for n in range(8)}, branch="fastqa")
    command = [*generate(work), "fastqa"]
    before = cached(work)
    with subprocess.Popen(command) as process:
        while cached(work) == before and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    kept = cached(work) - before
    assert kept
    assert_graph_is_true(repository, 2)
    subprocess.run(command, check=True)
    assert kept <= cached(work)
    assert_graph_is_true(repository, 4)
    assert list(repository.staging.iterdir()) == []


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(400_000)


def cached(repository: Path) -> set[str]:
    found = (repository / "state" / "deltas").rglob("*")
    return {path.name for path in found if path.is_file() and len(path.name) == 62}


@pytest.mark.parametrize(("syscall", "error"), [("fsync", "EIO"), ("rename", "EROFS")])
def test_a_failing_disk_publishes_nothing(
    template: Path, tmp_path: Path, syscall: str, error: str
) -> None:
    work = tmp_path / "work"
    reset(template, work)
    edges = list_edges(open_repository(work))
    command = [*generate(work), "builds"]
    done = fail_at(command, syscall, error, 1)
    assert done.returncode == 8
    assert "Traceback" not in done.stderr
    assert list_edges(open_repository(work)) == edges
    assert list(open_repository(work).staging.iterdir()) == []


def test_an_unnamed_pack_of_a_killed_run_goes_in_the_end(template: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    reset(template, work)
    repository = open_repository(work)
    orphan = work / "packs" / ("0f" * 32)
    orphan.write_bytes(b"published, and never named")
    assert delete_retired(repository, 1e9, 100.0) == []
    assert delete_retired(repository, 1e9 + 100, 100.0) == [f"packs/{orphan.name}"]
    assert_graph_is_true(repository, 2)


def test_retiring_is_killed_at_every_durable_step(template: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    reset(template, work)
    command = [HACKTREE, "--repo", str(work), "delta", "prune", "--older-than", "0s", "--quiet"]
    prepare(template, work)
    for _ in every_kill(command, "rename"):
        assert_graph_is_true(open_repository(work), 1)
        subprocess.run(command, check=True)
        assert_graph_is_true(open_repository(work), 1)
        assert len(list((work / "packs").iterdir())) == 1
        prepare(template, work)


def prepare(template: Path, work: Path) -> None:
    """One of two packs is retired, its file still there."""
    reset(template, work)
    repository = open_repository(work)
    retire_packs(repository, [list_edges(repository)[0].pack])
