"""A push whose server or client is killed at any step is completed; nothing goes twice."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hacktree.client.push import batches, pushing
from hacktree.client.push.batches import Batch
from hacktree.common.push.framing import ObjectKey
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from support.kill import every_kill, strace_path
from support.pulling import assert_whole, make_repository
from support.push_server import CI_SECRET
from support.pushing import PushHost, push_command, push_host, push_to, running_host
from support.trees import Spec, make_commit

BASE: dict[str | bytes, Spec] = {"etc/kept": b"kept"}
TREE: dict[str | bytes, Spec] = {
    **BASE,
    "noise": random.Random(1).randbytes(1_500_000),
    "d/noise": random.Random(2).randbytes(1_500_000),
    "d/small": b"small",
}
MOST = 200


@pytest.fixture
def source(tmp_path: Path) -> Repository:
    """Two builds, the second of which has several batches."""
    repository = make_repository(tmp_path / "source")
    make_commit(repository, BASE)
    make_commit(repository, TREE)
    return repository


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[ObjectKey]:
    """Small batches; what was put into them, in order."""
    keys: list[ObjectKey] = []

    def read_and_note(repository: Repository, batch: Batch) -> Iterator[bytes]:
        keys.extend(batch.keys)
        return batches.read_batch(repository, batch)

    monkeypatch.setattr(batches, "BATCH_SIZE", 1_000_000)
    monkeypatch.setattr(pushing, "read_batch", read_and_note)
    return keys


@pytest.mark.parametrize(
    "calls", ["syncfs", "fsync", "link,linkat", "rename,renameat,renameat2", "unlink,unlinkat"]
)
async def test_a_server_killed_at_any_durable_step_goes_on_when_it_is_back(
    calls: str, sent: list[ObjectKey], tmp_path: Path
) -> None:
    """The client, which only sees a broken connection, completes the push by itself."""
    source = make_repository(tmp_path / "source")
    # Few objects: each costs several steps. Two batches.
    head = make_commit(source, {"noise": TREE["noise"], "small": b"small"})
    for step in range(1, MOST):
        server = make_repository(tmp_path / f"server-{step}")
        with push_host(server) as host:
            killed = await push_while_killing(host, source, kill_at_step(calls, step), sent)
            assert_whole(server, head)
            assert list_refs(server) == {"fastqa": head}
        if not killed:
            assert step > 1, "no step was hit"
            return
    raise AssertionError(f"still killed at step {MOST}")


def kill_at_step(calls: str, step: int) -> list[str]:
    return [
        strace_path(), "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}",
        "-e", f"inject={calls}:signal=KILL:when={step}",
    ]  # fmt: skip


async def push_while_killing(
    host: PushHost, source: Repository, prefix: Sequence[str], sent: list[ObjectKey]
) -> bool:
    """Push; when the server dies, check what it left and start another. Whether it died."""
    host.start(prefix)
    pushing_task = asyncio.create_task(push_to(host.url, source))
    death = asyncio.create_task(asyncio.to_thread(host.wait))
    await asyncio.wait({pushing_task, death}, return_when=asyncio.FIRST_COMPLETED)
    killed = not pushing_task.done()
    if killed:
        await death
        assert_nothing_half_published(host.repository)
        acknowledged = {staged.key for staged in host.acknowledged()}
        before = len(sent)
        host.start()
        await pushing_task
        assert not acknowledged & set(sent[before:])
    else:
        await pushing_task
        host.send_kill()
        await death
    return killed


def assert_nothing_half_published(server: Repository) -> None:
    for head in list_refs(server).values():
        assert_whole(server, head)


def test_a_client_killed_at_any_send_goes_on_when_it_is_run_again(
    source: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt gets further: what came whole is kept, even of a batch that broke."""
    monkeypatch.setenv("HACKTREE_TOKEN", CI_SECRET)
    head = list_refs(source)["fastqa"]
    server = make_repository(tmp_path / "server")
    with running_host(server) as host:
        command = push_command(host.url, source, "fastqa", "fastqa")
        kept = 0
        for _ in every_kill(command, "sendto,sendmsg"):
            assert_nothing_half_published(server)
            kept = max(kept, len(host.acknowledged()))
        assert kept > 2
        assert list_refs(server) == {"fastqa": head}
        assert_whole(server, head)
