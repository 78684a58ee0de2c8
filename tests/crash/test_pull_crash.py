"""A pull killed at any durable step: what is published is whole, and the next pull completes."""

import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.client.remote import add_remote
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from support.pulling import assert_whole, make_repository, remote_at
from support.trees import File, Spec, make_commit

TREE: dict[str | bytes, Spec] = {"a": b"1", "b": File(b"2", 0o4755), "d/c": b"3" * 3_000_000}
PROGRAM = "from hacktree.common.cli.main import main; exit(main())"
MOST = 200


@pytest.mark.parametrize("mode", [Mode.ARCHIVE, Mode.BARE_USER], ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    "calls", ["syncfs", "fsync", "link,linkat", "rename,renameat,renameat2", "unlink,unlinkat"]
)
def test_a_pull_killed_at_any_durable_step_is_completed_by_the_next(
    calls: str, mode: Mode, tmp_path: Path
) -> None:
    publisher = make_repository(tmp_path / "origin")
    head = make_commit(publisher, TREE)
    for step in range(1, MOST):
        mirror = make_repository(tmp_path / f"mirror-{step}", mode)
        add_remote(mirror, remote_at(f"file://{publisher.path}"))
        killed = _pull(
            mirror,
            [
                "strace",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                f"trace={calls}",
                "-e",
                f"inject={calls}:signal=KILL:when={step}",
            ],
        )
        _assert_nothing_half_published(mirror, head)
        assert _pull(mirror, []) == 0
        assert_whole(mirror, head)
        assert list_refs(mirror) == {"remotes/farm/fastqa": head}
        if killed == 0:
            assert step > 1, "no step was hit"
            return
    raise AssertionError(f"still killed at step {MOST}")


def _pull(mirror: Repository, prefix: list[str]) -> int:
    command = [sys.executable, "-c", PROGRAM, "--repo", str(mirror.path), "--quiet"]
    return subprocess.run([*prefix, *command, "pull", "fastqa"], timeout=120).returncode


def _assert_nothing_half_published(mirror: Repository, head: ObjectId) -> None:
    refs = list_refs(mirror)
    if mirror.has_meta(head) or refs:
        assert_whole(mirror, head)
    assert set(refs.values()) <= {head}
