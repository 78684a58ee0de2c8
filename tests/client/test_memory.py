"""What one pull of a process leaves to the next one, which never believes it of the disk."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hacktree.client import packs
from hacktree.client.bisect.farm.fetching import BuildRequest, bring_build
from hacktree.client.inventory import Inventory, read_inventory
from hacktree.client.memory import Memory
from hacktree.client.treecache import read_trees
from hacktree.common.delta.prefer import Prefer
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.objects.tree import DirectoryEntry, FileEntry, Tree
from hacktree.common.objects.walk import Extent, measure, walk_tree
from hacktree.common.repository.objectnames import content_name, meta_name
from hacktree.common.repository.repository import Repository
from support.packmaking import publish_packs
from support.pulling import assert_whole, remote_at
from support.trees import Spec, make_commit

BRANCH = parse_branch_name("fastqa")
LONG_AGO = time.time_ns() - 3_600_000_000_000


def tree(number: int) -> dict[str | bytes, Spec]:
    files: dict[str | bytes, Spec] = {f"d{i}/f": b"%d" % i for i in range(8)}
    return {**files, "d0/new": b"of build %d" % number}


def settle(repository: Repository) -> None:
    """As if nothing had changed for an hour."""
    for directory in repository.objects.iterdir():
        os.utime(directory, ns=(LONG_AGO, LONG_AGO))


def put(repository: Repository, content: bytes) -> Path:
    path = repository.objects / meta_name(hash_bytes(content))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


class Watched(list[str]):
    """Names of a directory; whoever goes through them lets another thread look in between."""

    look: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[str]:
        for name in list.__iter__(self):
            yield name
            look, self.look = self.look, None
            if look is not None:
                look()


def test_what_is_here_is_never_seen_in_part() -> None:
    """Threads that open bases ask for the first time at the same moment."""
    first, second = ObjectId(bytes(32)), ObjectId(bytes([0] * 31 + [1]))
    names = Watched(f"{content.hex()[2:]}.0-0-0644.file" for content in (first, second))
    inventory = Inventory(set(), {"00": names})
    seen: list[bool] = []
    names.look = lambda: seen.append(inventory.holds(second))
    assert inventory.holds(first)
    assert seen == [True]
    assert not inventory.holds(ObjectId(bytes([1] * 32)))
    assert inventory.variant_of(second) == f"00/{names[1]}"


@pytest.mark.parametrize("settled", [True, False])
def test_an_inventory_is_the_same_whether_one_is_known_or_not(
    farm: Repository, *, settled: bool
) -> None:
    make_commit(farm, tree(0))
    put(farm, b"goes")
    if settled:
        settle(farm)
    known = read_inventory(farm)
    for change in (lambda: put(farm, b"comes"), lambda: put(farm, b"goes").unlink()):
        change()
        known, fresh = read_inventory(farm, known), read_inventory(farm)
        assert known.names == fresh.names
        assert {d: sorted(n) for d, n in known.listed.items()} == {
            d: sorted(n) for d, n in fresh.listed.items()
        }


def test_only_directories_that_changed_are_listed_again(
    farm: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_commit(farm, tree(0))
    settle(farm)
    known = read_inventory(farm)
    changed = put(farm, b"comes").parent
    listed: list[str] = []
    listdir = os.listdir

    def spy(path: str | Path) -> list[str]:
        listed.append(Path(path).name)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", spy)
    read_inventory(farm, known)
    assert listed == ["objects", changed.name]


def test_a_directory_that_is_gone_has_no_names(farm: Repository) -> None:
    path = put(farm, b"goes")
    settle(farm)
    known = read_inventory(farm)
    path.unlink()
    path.parent.rmdir()
    assert read_inventory(farm, known).names == read_inventory(farm).names == set()


@pytest.mark.parametrize("packed", [True, False])
def test_pulls_with_a_memory_bring_the_same_and_what_was_deleted_meanwhile(
    farm: Repository, client: Repository, *, packed: bool
) -> None:
    remote, memory = remote_at(f"file://{farm.path}"), Memory()
    commits: list[ObjectId] = []
    for number in range(3):
        commit = make_commit(farm, tree(number))
        commits.append(commit)
        if packed:
            publish_packs(farm, list(itertools.pairwise(commits)))
        bring_build(client, remote, BuildRequest(BRANCH, commit, 4, memory=memory))
        assert assert_whole(client, commit) == assert_whole(farm, commit)
        # A content and a tree that the next build has, too.
        found = dict(walk_tree(client.load_tree, client.load_commit(commit).root.id))
        content, directory = found[b"d3/f"], found[b"d4"]
        assert isinstance(content, FileEntry)
        assert isinstance(directory, DirectoryEntry)
        (client.objects / content_name(client.mode, content)).unlink()
        (client.objects / meta_name(directory.id)).unlink()


def test_trees_are_not_read_and_hashed_again(
    farm: Repository, client: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def spy(repository: Repository) -> dict[ObjectId, bytes]:
        read.append(repository)
        return read_trees(repository)

    monkeypatch.setattr(packs, "read_trees", spy)
    commits = [make_commit(farm, tree(number)) for number in range(3)]
    publish_packs(farm, list(itertools.pairwise(commits)))
    remote, memory = remote_at(f"file://{farm.path}"), Memory()
    for commit in commits:
        request = BuildRequest(BRANCH, commit, 4, Prefer.BYTES, memory=memory)
        bring_build(client, remote, request)
        assert assert_whole(client, commit) == assert_whole(farm, commit)
    assert read == []
    last = make_commit(farm, tree(3))
    publish_packs(farm, [(commits[-1], last)])
    bring_build(client, remote, BuildRequest(BRANCH, last, 4, Prefer.BYTES))
    assert len(read) == 1


def test_what_was_measured_before_is_not_loaded_again(farm: Repository) -> None:
    first, second = (farm.load_commit(make_commit(farm, tree(n))).root.id for n in range(2))
    extents: dict[ObjectId, Extent] = {}
    assert measure(farm.load_tree, first, extents) == measure(farm.load_tree, first)
    loaded = []

    def load(tree_id: ObjectId) -> Tree:
        loaded.append(tree_id)
        return farm.load_tree(tree_id)

    assert measure(load, second, extents) == measure(farm.load_tree, second)
    assert len(loaded) == 2, "the root, and the directory that changed"
