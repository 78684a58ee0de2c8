"""Prune killed at any unlink or sync leaves a repository that is intact and that prune finishes."""

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
CALLS = "unlink,unlinkat,fsync,rename,renameat2"
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


@pytest.mark.parametrize("mode", [Mode.ARCHIVE, Mode.BARE], ids=lambda mode: mode.value)
def test_killed_at_every_durable_step(mode: Mode, tmp_path: Path) -> None:
    assert shutil.which("strace"), "this test needs strace"
    pristine, head = build(tmp_path / "pristine", mode)
    reference = tmp_path / "reference"
    shutil.copytree(pristine.path, reference, symlinks=True)
    prune(open_repository(reference), HEADS, now=NOW, grace=0)
    expected = sorted(list_objects(open_repository(reference)).names)
    before = sorted(list_objects(pristine).names)
    assert len(expected) < len(before)

    step = 0
    partial = set()
    while True:
        step += 1
        path = tmp_path / f"step{step}"
        shutil.copytree(pristine.path, path, symlinks=True)
        killed = run_prune(
            path, "strace", "-qq", "-f", "-o", str(tmp_path / "trace"), "-e", f"trace={CALLS}",
            "-e", f"inject={CALLS}:signal=KILL:when={step}",
        )  # fmt: skip
        if killed.returncode == 0:
            break
        assert "SIGKILL" in (tmp_path / "trace").read_text(), killed.stderr
        repository = open_repository(path)
        partial.add(len(list_objects(repository).names))
        assert fsck(repository).intact, f"killed at step {step}"
        finished = run_prune(path)
        assert finished.returncode == 0, finished.stderr
        assert sorted(list_objects(repository).names) == expected
        assert repository.has_meta(head)
        assert fsck(repository).intact
        shutil.rmtree(path)
    # It was killed with nothing, with something and with everything deleted.
    assert {len(before), len(expected)} <= partial
    assert len(partial) > 3
