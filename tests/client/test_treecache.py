"""The trees of the last pull are read from one file, which nobody has to believe."""

from pathlib import Path

import msgspec
import pytest

from hacktree.client import treecache
from hacktree.client.treecache import read_trees, write_trees
from hacktree.common.delta.contents import list_contents
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.repository.repository import Repository
from support.packmaking import publish_packs
from support.pulling import assert_whole, pull_from
from support.trees import Spec, make_commit

TREES = [b"one tree", b"another", b""]


def cache(repository: Repository) -> Path:
    return repository.state / "trees.msgpack"


def test_what_was_kept_is_found_by_its_hash(client: Repository) -> None:
    assert read_trees(client) == {}
    write_trees(client, TREES)
    assert read_trees(client) == {hash_bytes(tree): tree for tree in TREES}
    write_trees(client, [b"newer"])
    assert list(read_trees(client).values()) == [b"newer"]
    assert not list(client.state.glob("*.tmp"))


@pytest.mark.parametrize("damage", [b"", b"\x93\xc4", b"\x81\xa1a\x01", b"\xc1" * 64])
def test_a_damaged_cache_is_none(client: Repository, damage: bytes) -> None:
    cache(client).write_bytes(damage)
    assert read_trees(client) == {}


def test_a_cache_is_bounded(client: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treecache, "MAX_CACHE", 100)
    write_trees(client, [b"x" * 50])
    write_trees(client, [b"y" * 100])
    assert list(read_trees(client).values()) == [b"x" * 50]
    cache(client).write_bytes(msgspec.msgpack.encode([b"z" * 200]))
    assert read_trees(client) == {}


def build(number: int) -> dict[str | bytes, Spec]:
    tree: dict[str | bytes, Spec] = {f"d{i}/f": f"{i}".encode() for i in range(5)}
    tree["new/f"] = f"of build {number}".encode() * 500
    return tree


async def test_a_pull_keeps_all_trees_of_its_commit_and_no_others(
    farm: Repository, client: Repository
) -> None:
    commits = [make_commit(farm, build(1))]
    await pull_from(client, f"file://{farm.path}")
    root = farm.load_commit(commits[0]).root.id
    assert set(read_trees(client)) == set(list_contents(farm.load_tree, root).trees)
    for number in (2, 3):
        commits.append(make_commit(farm, build(number)))
        publish_packs(farm, [(commits[-2], commits[-1])])
        result, _ = await pull_from(client, f"file://{farm.path}")
        assert result.packs.objects == 1
        root = farm.load_commit(commits[-1]).root.id
        trees = set(list_contents(farm.load_tree, root).trees)
        kept = read_trees(client)
        assert set(kept) == trees
        if number == 2:
            # Whoever could write here could write objects too; but a disk forgets.
            lie = {name: data for name, data in kept.items() if name != root}
            write_trees(client, [*lie.values(), b"no tree at all"])
    assert assert_whole(client, commits[-1]) == assert_whole(farm, commits[-1])


async def test_a_pull_that_is_published_does_not_fail_for_its_cache(
    farm: Repository, client: Repository
) -> None:
    commits = [make_commit(farm, build(1))]
    await pull_from(client, f"file://{farm.path}")
    commits.append(make_commit(farm, build(2)))
    publish_packs(farm, [(commits[0], commits[1])])
    cache(client).unlink()
    cache(client).mkdir()  # Nothing can be renamed over it.
    (cache(client) / "f").touch()
    with pytest.raises(OSError, match="directory"):
        write_trees(client, [b"x"])
    result, _ = await pull_from(client, f"file://{farm.path}")
    assert result.packs.objects == 1
    assert_whole(client, commits[1])
