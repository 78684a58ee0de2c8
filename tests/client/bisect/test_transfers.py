"""What is kept of a line between commands: a cache, bounded, believed only by its hashes."""

from pathlib import Path

import msgspec
import pytest

from hacktree.client.bisect.farm import transfers
from hacktree.client.bisect.farm.costs import BuildTree
from hacktree.client.bisect.farm.transfers import forget_trees, keep_trees, read_trees
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.objects.zstandard import compress
from hacktree.common.repository.repository import Repository
from support.pulling import make_repository


@pytest.fixture
def client(tmp_path: Path) -> Repository:
    client = make_repository(tmp_path / "client")
    (client.state / "bisect").mkdir()
    return client


def builds(count: int) -> dict[str, BuildTree]:
    commits = [b"commit %d " % number * 100 for number in range(count)]
    return {hash_bytes(c).hex(): BuildTree(hash_bytes(b"tree" + c), len(c), c) for c in commits}


def test_commits_are_kept_with_what_their_trees_take(client: Repository) -> None:
    assert read_trees(client) == {}
    keep_trees(client, builds(3))
    assert read_trees(client) == builds(3)
    keep_trees(client, builds(1))
    assert read_trees(client) == builds(1)
    forget_trees(client)
    assert read_trees(client) == {}


def test_of_a_long_line_the_first_commits_are_kept_and_all_trees(
    client: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "_MAX_COMMITS", 2_000)
    keep_trees(client, builds(5))
    kept = read_trees(client)
    assert [bool(build.commit) for build in kept.values()] == [True, True, False, False, False]
    assert [build.tree for build in kept.values()] == [b.tree for b in builds(5).values()]


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x93\xc4", compress(b"\xc1" * 64, 3), compress(msgspec.msgpack.encode({"a": 1}), 3)],
)
def test_a_damaged_cache_is_none(client: Repository, damage: bytes) -> None:
    (client.state / "bisect/builds.zst").write_bytes(damage)
    assert read_trees(client) == {}


def test_a_cache_that_unfolds_without_end_is_none(
    client: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "_MAX_SIZE", 10_000)
    (client.state / "bisect/builds.zst").write_bytes(compress(bytes(1 << 20), 3))
    assert read_trees(client) == {}
