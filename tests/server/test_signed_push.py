"""Promise: on a signed server a branch moves only with a signature of its own key."""

import asyncio
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from hacktree.client.push.connection import connect_for_push
from hacktree.client.push.pushing import UnsignedPushError, push
from hacktree.client.push.refused import CommitRefusedError
from hacktree.client.remote import Remote
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.refs import hold_refs, read_ref
from hacktree.common.repository.repository import Repository
from hacktree.common.trust import editing
from hacktree.common.trust.keys import generate_key
from hacktree.server.publication import NewHead, SignatureWrongError, publish_head, recover_heads
from support.pulling import FakeTime, assert_whole, make_repository, patience, pull_from
from support.push_server import CI_SECRET
from support.pushing import push_command, running_host
from support.trees import make_commit
from support.trusting import BUILDS, SignedFarm, change_branch, new_signer


@pytest.fixture
def server(tmp_path: Path) -> SignedFarm:
    return SignedFarm(make_repository(tmp_path / "server"))


@pytest.fixture
def source(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "source")


async def push_signed(
    url: str, source: Repository, key: CryptoSigner | None, shift: int = 0
) -> None:
    """Push the head of `builds`, its signature `shift` versions away from the right one."""

    def sign(branch: BranchName, head: ObjectId, length: int, version: int) -> bytes:
        assert key is not None
        role = editing.sign_branch(branch, head, length, version + shift, key, datetime.now(UTC))
        data: bytes = role.to_bytes()
        return data

    head = read_ref(source, "builds")
    assert head is not None
    remote = Remote("server", url, "unsigned")
    async with connect_for_push(remote, CI_SECRET, patience(FakeTime())) as connection:
        signer = None if key is None else sign
        await push(source, BUILDS, head, connection, lambda _d, _t: None, signer)


async def test_a_push_is_signed_and_followed_by_the_next(
    server: SignedFarm, source: Repository
) -> None:
    with running_host(server.repository) as host:
        for number in range(3):
            head = make_commit(source, {"f": f"{number}".encode()}, branch="builds")
            await push_signed(host.url, source, server.keys[BUILDS])
            assert read_ref(server.repository, "builds") == head
            assert editing.head_signed(server.store.load(), BUILDS) == head
    assert_whole(server.repository, head)


async def test_what_is_not_signed_right_moves_nothing_and_can_be_signed_later(
    server: SignedFarm, source: Repository
) -> None:
    head = make_commit(source, {"f": b"1"}, branch="builds")
    with running_host(server.repository) as host:
        with pytest.raises(UnsignedPushError):
            await push_signed(host.url, source, None)
        with pytest.raises(CommitRefusedError, match="not signed as it must be"):
            await push_signed(host.url, source, new_signer())
        with pytest.raises(CommitRefusedError, match="is due"):
            await push_signed(host.url, source, server.keys[BUILDS], shift=1)
        assert read_ref(server.repository, "builds") is None
        assert editing.head_signed(server.store.load(), BUILDS) is None
        await push_signed(host.url, source, server.keys[BUILDS])
    assert read_ref(server.repository, "builds") == head


def test_a_signature_of_another_commit_is_refused(server: SignedFarm) -> None:
    head = make_commit(server.repository, {"f": b"1"}, branch="builds")
    with hold_refs(server.repository):
        (server.repository.path / "refs/builds").unlink()
    other = ObjectId(bytes(32))
    for signed, length in ((other, 10), (head, 10)):
        role = editing.sign_branch(BUILDS, signed, length, 0, server.keys[BUILDS], server.now)
        with pytest.raises(SignatureWrongError):
            publish_head(
                server.repository, NewHead(BUILDS, head, None, role.to_bytes()), server.now
            )
    assert read_ref(server.repository, "builds") is None


def test_a_ref_that_a_crash_left_behind_follows_its_signature(server: SignedFarm) -> None:
    first = server.commit({"f": b"1"})
    second = server.commit({"f": b"2"})
    with hold_refs(server.repository):
        (server.repository.path / "refs/builds").write_text(f"{first.hex()}\n")
    assert recover_heads(server.repository) == [BUILDS]
    assert read_ref(server.repository, "builds") == second
    # What is committed and not signed yet is no crash.
    third = make_commit(server.repository, {"f": b"3"}, branch="builds")
    assert recover_heads(server.repository) == []
    assert read_ref(server.repository, "builds") == third


def test_an_unsigned_repository_takes_no_signature(source: Repository, server: SignedFarm) -> None:
    head = make_commit(source, {"f": b"1"}, branch="builds")
    role = editing.sign_branch(BUILDS, head, 10, 0, server.keys[BUILDS], server.now)
    with pytest.raises(SignatureWrongError):
        publish_head(source, NewHead(BUILDS, head, None, role.to_bytes()), server.now)
    assert recover_heads(source) == []


async def test_the_command_signs(server: SignedFarm, source: Repository, tmp_path: Path) -> None:
    """From CI's key file to a tester who believes nothing else."""
    (tmp_path / "pass").write_text("secret\n")
    key = generate_key(tmp_path / "ci", b"secret")
    change_branch(server.store, ([key.public_key], []), [server.targets], (), server.now)
    head = make_commit(source, {"f": b"1"}, branch="builds")
    with running_host(server.repository) as host:
        signed = ("--sign-with", str(tmp_path / "ci"), "--passphrase-file", str(tmp_path / "pass"))
        done = await asyncio.to_thread(
            subprocess.run,
            push_command(host.url, source, "builds", "builds", *signed),
            env={**os.environ, "HACKTREE_TOKEN": CI_SECRET},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        client = make_repository(tmp_path / "client")
        await pull_from(client, host.url, "builds")
    assert_whole(client, head)
    assert editing.head_signed(server.store.load(), BUILDS) == head
