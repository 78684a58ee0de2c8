"""Prune killed at any unlink, sync or rename leaves an intact repository, and prune finishes it."""

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.fsck import fsck
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.prune import prune
from hacktree.common.repository.reachability import list_objects
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.retention import Policy, Rule
from support.trees import make_commit

NOW = 2_000_000_000
HEADS = Policy(Rule(depth=0))
PRUNE = (
    "import sys; from pathlib import Path\n"
    "from hacktree.common.repository.prune import prune\n"
    "from hacktree.common.repository.repository import open_repository\n"
    "from hacktree.common.repository.retention import Policy, Rule\n"
    f"prune(open_repository(Path(sys.argv[1])), Policy(Rule(depth=0)), now={NOW}, grace=0)\n"
)


def build(path: Path, mode: Mode) -> tuple[Repository, ObjectId]:
    init_repository(path, mode)
    repository = open_repository(path)
    for n in range(3):
        head = make_commit(
            repository, {"same": b"same", "d/e/f": f"{n}".encode(), f"only{n}": b"o%d" % n}
        )
    return repository, head


def run_prune(path: Path, *strace: str) -> subprocess.CompletedProcess[str]:
    # -B: no bytecode is written, so every traced rename is prune's own.
    command = [*strace, sys.executable, "-B", "-c", PRUNE, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def kill_at_each(calls: str, pristine: Path, scratch: Path, expected: list[str]) -> set[int]:
    """Kill prune at the first, second... of `calls`; returns how many objects were left each time.

    strace counts each system call by itself, hence one loop for each.
    """
    left: set[int] = set()
    trace = scratch / "trace"
    for step in itertools.count(1):
        path = scratch / "repo"
        shutil.copytree(pristine, path, symlinks=True)
        killed = run_prune(
            path, "strace", "-qq", "-f", "-o", str(trace), "-e", f"trace={calls}",
            "-e", f"inject={calls}:signal=KILL:when={step}",
        )  # fmt: skip
        if killed.returncode == 0:
            assert step > 1, f"prune never called {calls}"
            shutil.rmtree(path)
            return left
        assert "SIGKILL" in trace.read_text(), killed.stderr
        repository = open_repository(path)
        left.add(len(list_objects(repository).names))
        assert fsck(repository).intact, f"killed at {calls} {step}"
        prune(repository, HEADS, now=NOW, grace=0)
        assert sorted(list_objects(repository).names) == expected
        assert fsck(repository).intact
        shutil.rmtree(path)
    raise AssertionError("unreachable")


@pytest.mark.parametrize("mode", [Mode.ARCHIVE, Mode.BARE], ids=lambda mode: mode.value)
def test_killed_at_every_durable_step(mode: Mode, tmp_path: Path) -> None:
    assert shutil.which("strace"), "this test needs strace"
    pristine, head = build(tmp_path / "pristine", mode)
    reference = tmp_path / "reference"
    shutil.copytree(pristine.path, reference, symlinks=True)
    finished = run_prune(reference)
    assert finished.returncode == 0, finished.stderr
    assert open_repository(reference).has_meta(head)
    expected = sorted(list_objects(open_repository(reference)).names)
    before = len(list_objects(pristine).names)

    unlinks = kill_at_each("unlink,unlinkat", pristine.path, tmp_path, expected)
    # Killed before each deletion, so once with every number of objects left but the last.
    assert unlinks == set(range(len(expected) + 1, before + 1))
    syncs = kill_at_each("fsync", pristine.path, tmp_path, expected)
    # Commits are gone, and nothing else, when their directories are synced.
    assert before - 2 in syncs
    if mode is Mode.ARCHIVE:
        assert len(expected) in syncs
        renames = kill_at_each("rename,renameat2", pristine.path, tmp_path, expected)
        assert renames == {before, len(expected)}
