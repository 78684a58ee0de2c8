"""Pushing to a real server: what it takes and what it refuses; half a build is never shown."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hacktree.client.push import connection
from hacktree.client.push.batches import Batch, NotPushableError
from hacktree.client.push.refused import (
    BranchMovedError,
    CommitRefusedError,
    PushRefusedError,
    TokenRefusedError,
)
from hacktree.client.remote import Remote
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.committing import CommitRequest, commit_existing
from hacktree.common.repository.fsck import fsck
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import archive_name
from hacktree.common.repository.refs import delete_ref, list_refs, read_ref
from hacktree.common.repository.repository import Repository
from support.pulling import FakeTime, assert_whole, make_repository, patience, pull_from
from support.push_server import FASTQA_SECRET
from support.pushing import (
    PushHost,
    ask,
    batch_of,
    finish_by_hand,
    open_by_hand,
    push_to,
    running_host,
    stored_objects,
)
from support.trees import File, Spec, Symlink, make_commit

TREE: dict[str | bytes, Spec] = {
    "etc/passwd": b"root:x:0:0::/root:/bin/sh\n",
    "bin/su": File(b"suid", 0o4755),
    "bin/link": Symlink(b"su"),
    "empty": b"",
    "usr/large": b"large" * 2_000_000,
}


@pytest.fixture
def source(tmp_path: Path) -> Repository:
    """Where builds are committed."""
    return make_repository(tmp_path / "source")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[PushHost]:
    """A server with an empty repository."""
    with running_host(make_repository(tmp_path / "server")) as running:
        yield running


async def test_a_new_branch_and_its_next_build(source: Repository, host: PushHost) -> None:
    """Only what the server lacks is sent, in few requests, and it serves what was pushed."""
    first = make_commit(source, TREE)
    totals, traffic = await push_to(host.url, source)
    assert read_ref(host.repository, "fastqa") == first
    assert totals.objects == 8
    assert traffic.requests == len(host.requests()) == 4
    second = make_commit(source, {**TREE, "usr/new": b"new"})
    totals, traffic = await push_to(host.url, source)
    assert totals.objects == 3  # usr/new, and two directories
    assert traffic.requests == 4
    assert read_ref(host.repository, "fastqa") == second
    assert_whole(host.repository, second)


async def test_what_was_pushed_is_pulled_and_sound(
    source: Repository, host: PushHost, tmp_path: Path
) -> None:
    """The server's repository is as good as one that was committed to: history, fsck, pull."""
    for number in range(3):
        make_commit(source, {**TREE, "number": str(number).encode()})
        await push_to(host.url, source)
    head = read_ref(source, "fastqa")
    assert head is not None
    assert_sound(host.repository)
    mirror = make_repository(tmp_path / "mirror")
    result, _ = await pull_from(mirror, host.url, "fastqa~1")
    assert result.target.id == source.load_commit(head).parents[0]
    result, _ = await pull_from(mirror, host.url)
    assert assert_whole(mirror, head) == assert_whole(source, head)
    for name in ("objects", "refs", "branches"):
        assert names_below(host.repository.path / name) == names_below(source.path / name)


async def test_many_objects_are_asked_about_in_batches(
    source: Repository, host: PushHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_IDS", 3)
    head = make_commit(source, TREE)
    totals, traffic = await push_to(host.url, source)
    assert (totals.objects, traffic.requests) == (8, 1 + 3 + 1 + 1)
    assert_whole(host.repository, head)


async def test_pushing_again_sends_nothing(source: Repository, host: PushHost) -> None:
    head = make_commit(source, TREE)
    await push_to(host.url, source)
    totals, traffic = await push_to(host.url, source)
    assert (totals.objects, totals.builds, traffic.requests) == (0, 0, 1)
    make_commit(source, {"a": b"1"})
    await push_to(host.url, source)
    totals, _ = await push_to(host.url, source, commit=head)  # Long since followed by another.
    assert totals.builds == 0


async def test_builds_that_the_server_lacks_go_first(source: Repository, host: PushHost) -> None:
    """A history is published build by build: testers can go back to each."""
    builds = [make_commit(source, {"number": str(n).encode()}) for n in range(3)]
    totals, _ = await push_to(host.url, source)
    assert totals.builds == 3
    for build in builds:
        assert_whole(host.repository, build)
    assert_sound(host.repository)


async def test_a_promotion_sends_its_commit_only(source: Repository, host: PushHost) -> None:
    build = make_commit(source, TREE, branch="builds")
    await push_to(host.url, source, "builds")
    commit_existing(source, build, CommitRequest(BranchName("fastqa"), 1_700_000_001))
    totals, _ = await push_to(host.url, source, "fastqa")
    assert (totals.builds, totals.objects) == (1, 0)
    assert list_refs(host.repository).keys() == {"builds", "fastqa"}


async def test_of_two_racing_pushes_one_wins_and_the_other_learns_by_which_build(
    source: Repository, host: PushHost, tmp_path: Path
) -> None:
    make_commit(source, TREE)
    await push_to(host.url, source)
    rival = make_repository(tmp_path / "rival")
    make_commit(rival, TREE)  # The same commit, byte by byte.
    ours = make_commit(source, {"a": b"ours"}, version="48.1")
    theirs = make_commit(rival, {"a": b"theirs"}, version="48.2")
    outcomes = await asyncio.gather(
        push_to(host.url, source), push_to(host.url, rival), return_exceptions=True
    )
    (lost,) = (error for error in outcomes if isinstance(error, BaseException))
    assert isinstance(lost, BranchMovedError)
    winner = read_ref(host.repository, "fastqa")
    assert winner in (ours, theirs)
    version = "48.1" if winner == ours else "48.2"
    assert winner is not None
    assert f"{winner.hex()} (build 2, version {version}, " in lost.message
    assert_sound(host.repository)


async def test_the_head_is_compared_when_it_moves_not_only_when_a_push_is_opened(
    source: Repository, host: PushHost, tmp_path: Path
) -> None:
    rival = make_repository(tmp_path / "rival")
    ours, theirs = make_commit(source, {"a": b"ours"}), make_commit(rival, {"a": b"theirs"})
    pushes = [open_by_hand(host, source, ours), open_by_hand(host, rival, theirs)]
    for push_id, repository, commit in zip(pushes, (source, rival), (ours, theirs), strict=True):
        body = batch_of(*stored_objects(repository, commit))
        assert ask(host, f"/pushes/{push_id}/batch", body, method="PUT").status == 200
    assert finish_by_hand(host, pushes[0]).status == 200
    refused = finish_by_hand(host, pushes[1])
    assert (refused.status, refused.refusal.code) == (409, "head-moved")
    assert f"fastqa is at {ours.hex()} (build 1, " in refused.refusal.message
    assert read_ref(host.repository, "fastqa") == ours
    # Finishing again is answered as before.
    assert finish_by_hand(host, pushes[0]).status == 200


@pytest.mark.parametrize("secret", ["unknown", FASTQA_SECRET])
async def test_a_token_that_does_not_allow_it_is_refused(
    secret: str, source: Repository, host: PushHost
) -> None:
    make_commit(source, TREE, branch="builds")
    with pytest.raises(TokenRefusedError):
        await push_to(host.url, source, "builds", secret=secret)
    assert host.acknowledged() == []
    assert list_refs(host.repository) == {}


async def test_a_token_that_is_revoked_in_between_ends_the_push_before_the_next_body(
    host: PushHost,
) -> None:
    """The client waits to be asked for it."""
    body = iter([b"never read"])
    remote = Remote("server", host.url, "unsigned")
    async with connection.connect_for_push(remote, "revoked", patience(FakeTime())) as server:
        with pytest.raises(TokenRefusedError):
            await server.send_batch("0" * 32, Batch((), 10), body)
    assert list(body) == [b"never read"]


async def test_another_branch_beside_or_below_is_refused(
    source: Repository, host: PushHost
) -> None:
    commit = make_commit(source, TREE, branch="a")
    await push_to(host.url, source, "a")
    delete_ref(source, "a")
    make_commit(source, TREE, branch="a/b")
    with pytest.raises(CommitRefusedError, match="can't stand beside"):
        await push_to(host.url, source, "a/b")
    with pytest.raises(NotPushableError, match="a build of a, not of c"):
        await push_to(host.url, source, "c", commit)


async def test_a_bare_repository_can_not_be_pushed_from(tmp_path: Path, host: PushHost) -> None:
    bare = make_repository(tmp_path / "bare", Mode.BARE_USER)
    make_commit(bare, TREE)
    with pytest.raises(NotPushableError, match="only an archive"):
        await push_to(host.url, bare)


async def test_a_server_without_the_api_says_what_is_wrong(
    source: Repository, host: PushHost
) -> None:
    make_commit(source, TREE)
    with pytest.raises(PushRefusedError) as caught:
        await push_to(host.url + "/elsewhere", source)
    assert "serve --api" in caught.value.hint


async def test_an_object_that_is_damaged_here_is_named(source: Repository, host: PushHost) -> None:
    """In the middle of a body that the server doesn't want to hear the end of."""
    noise = os.urandom(6_000_000)
    make_commit(source, {"noise": noise})
    path = source.objects / archive_name(hash_bytes(noise))
    data = bytearray(path.read_bytes())
    data[1_000_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(PushRefusedError) as caught:
        await push_to(host.url, source)
    assert hash_bytes(noise).hex() in caught.value.message
    assert "fsck" in caught.value.hint


async def test_a_full_quota_reaches_the_person_who_pushes(
    source: Repository, tmp_path: Path
) -> None:
    make_commit(source, {"noise": os.urandom(6_000_000)})
    server = make_repository(tmp_path / "small")
    (server.path / "config.toml").write_text('min-free-space = "0"\n[push]\nmax-bytes = "1MB"\n')
    with running_host(server) as host:
        with pytest.raises(PushRefusedError, match="no more bytes"):
            await push_to(host.url, source)
        assert len(host.requests()) == 3, "a refusal is not tried again"


def assert_sound(repository: Repository) -> None:
    """fsck finds nothing."""
    report = fsck(repository, jobs=1)
    assert (report.findings, report.refs, report.foreign) == ([], [], [])


def names_below(directory: Path) -> set[str]:
    """The files below a directory."""
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
