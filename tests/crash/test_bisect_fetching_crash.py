"""Bringing a build to test, killed at any step: pinned before it is whole, never half published."""

import shutil
import sys
import time
from pathlib import Path

import pytest

from hacktree.client.bisect.farm.fetching import BuildRequest, bring_build
from hacktree.client.remote import add_remote
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.prune import prune, read_pins
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.retention import Policy
from support.kill import kill_at
from support.packmaking import publish_packs
from support.pulling import assert_whole, make_repository, remote_at
from support.trees import Spec, make_commit

PROGRAM = """
import sys
from pathlib import Path
from hacktree.client.bisect.farm.fetching import BuildRequest, bring_build
from hacktree.client.remote import load_remote
from hacktree.common.objects.ids import parse_object_id
from hacktree.common.repository.repository import open_repository
repository = open_repository(Path(sys.argv[1]))
request = BuildRequest("fastqa", parse_object_id(sys.argv[2]), 4)
bring_build(repository, load_remote(repository, "farm"), request)
"""
STEPS = (1, 3, 8)
"""Which of the calls is the last: not all, since each costs the start of two decoders."""


def tree(mark: bytes) -> dict[str | bytes, Spec]:
    return {f"d/{i}": bytes([i]) * 5000 + mark + bytes(5000) for i in range(6)}


@pytest.mark.parametrize("call", ["fsync", "syncfs,link,linkat", "ftruncate"])
def test_killed_anywhere_it_is_kept_whole_or_brought_by_the_next_call(
    call: str, tmp_path: Path
) -> None:
    farm = make_repository(tmp_path / "farm")
    old, new = make_commit(farm, tree(b"one")), make_commit(farm, tree(b"two"))
    publish_packs(farm, [(old, new)])
    client = make_repository(tmp_path / "client", Mode.BARE_USER)
    add_remote(client, remote_at(f"file://{farm.path}"))
    _bring(client, old)
    hits = 0
    for step in STEPS:
        copy = tmp_path / f"client-{step}"
        shutil.copytree(client.path, copy, symlinks=True)
        victim = open_repository(copy)
        command = [sys.executable, "-c", PROGRAM, str(copy), new.hex()]
        killed = kill_at(command, call, step)
        hits += killed
        # The pin comes first: what is published is kept by it, against a prune at this moment.
        if victim.has_meta(new):
            assert new in read_pins(victim).values()
        prune(victim, Policy(), now=time.time(), grace=0.0)
        assert_whole(victim, old)
        if victim.has_meta(new):
            assert_whole(victim, new)
        _bring(victim, new)
        assert assert_whole(victim, new) == assert_whole(farm, new)
        assert list_refs(victim) == {}
        assert list(victim.staging.iterdir()) == []
        shutil.rmtree(copy)
        if not killed:
            break
    assert hits, f"no {call} was hit"


def _bring(repository: Repository, commit: ObjectId) -> None:
    remote = remote_at((repository.path.parent / "farm").as_uri())
    bring_build(repository, remote, BuildRequest(parse_branch_name("fastqa"), commit, 4))
