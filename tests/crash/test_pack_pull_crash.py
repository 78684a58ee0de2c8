"""A pull over packs killed at any step: nothing half published, and the next pull completes it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.client.remote import add_remote
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository, open_repository
from support.kill import strace_path
from support.packmaking import publish_packs
from support.pulling import assert_whole, make_repository, pull_from, remote_at
from support.trees import Spec, make_commit

PROGRAM = "from hacktree.common.cli.main import main; exit(main())"
STEPS = (1, 4, 9)
"""Which of the calls is the last: not all, since each costs the start of two decoders."""


def tree(mark: bytes) -> dict[str | bytes, Spec]:
    return {f"d/{i}": bytes([i]) * 5000 + mark + bytes(5000) for i in range(6)}


@pytest.fixture
async def client(tmp_path: Path) -> Repository:
    """Has a build; a newer one and a pack to it are published in tmp_path/farm."""
    farm = make_repository(tmp_path / "farm")
    first = make_commit(farm, tree(b"one"))
    made = make_repository(tmp_path / "client", Mode.BARE_USER)
    add_remote(made, remote_at(f"file://{farm.path}"))
    await pull_from(made, f"file://{farm.path}")
    publish_packs(farm, [(first, make_commit(farm, tree(b"two")))])
    return made


@pytest.mark.parametrize("call", ["syncfs", "link,linkat", "ftruncate", "sendmsg"])
def test_a_pull_over_packs_killed_anywhere_is_completed_by_the_next(
    call: str, client: Repository, tmp_path: Path
) -> None:
    farm = open_repository(tmp_path / "farm")
    old = list_refs(client)["remotes/farm/fastqa"]
    head = list_refs(farm)["fastqa"]
    hit = False
    for step in STEPS:
        copy = tmp_path / f"client-{step}"
        shutil.copytree(client.path, copy, symlinks=True)
        victim = open_repository(copy)
        killed = _pull(
            victim,
            [
                strace_path(), "-f", "-qq", "-o", "/dev/null",
                "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={step}",
            ],
        )  # fmt: skip
        hit = hit or killed != 0
        assert_whole(victim, old)
        if victim.has_meta(head):
            assert_whole(victim, head)
        assert _pull(victim, []) == 0
        assert assert_whole(victim, head) == assert_whole(farm, head)
        assert list(victim.staging.iterdir()) == []
        shutil.rmtree(copy)
        if killed == 0:
            break
    assert hit, f"no {call} was hit"


def _pull(repository: Repository, prefix: list[str]) -> int:
    command = [sys.executable, "-c", PROGRAM, "--repo", str(repository.path), "--quiet"]
    options = ["pull", "fastqa", "--prefer", "bytes"]
    return subprocess.run([*prefix, *command, *options], timeout=120).returncode
