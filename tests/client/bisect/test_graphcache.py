"""The pack graph is read once a session, unless it has no way to some build."""

import itertools
from pathlib import Path

import msgspec
import pytest

from hacktree.client.bisect.farm.graphcache import forget_graph, keep_graph, read_graph_kept
from hacktree.client.remote import add_remote
from hacktree.common.delta.graph import SEGMENT_LENGTH, Edge
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.revision import resolve
from support.bisectfarm import bisect, make_farm, make_tester
from support.packmaking import publish_packs
from support.pulling import make_repository, remote_at
from support.servers import nginx_serving


@pytest.fixture
def client(tmp_path: Path) -> Repository:
    client = make_repository(tmp_path / "client")
    (client.state / "bisect").mkdir()
    return client


def tree(number: int) -> ObjectId:
    return hash_bytes(b"%d" % number)


def edges(count: int) -> list[Edge]:
    """A pack to each tree from the one before."""
    return [
        Edge(tree(n), tree(n + 1), hash_bytes(b"pack %d" % n), 10, 20, 1, 30, 0)
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [1, SEGMENT_LENGTH, 3 * SEGMENT_LENGTH + 1])
def test_what_leads_to_every_build_is_kept(client: Repository, count: int) -> None:
    builds = {tree(1), tree(count)}
    keep_graph(client, edges(count), builds)
    assert read_graph_kept(client, builds) == edges(count)
    forget_graph(client)
    assert read_graph_kept(client, builds) == ()


def test_what_has_no_way_to_some_build_is_not(client: Repository) -> None:
    """Neither kept, nor believed for another line; and what was kept before goes."""
    keep_graph(client, edges(3), {tree(2)})
    assert read_graph_kept(client, {tree(2), tree(9)}) == ()
    keep_graph(client, edges(3), {tree(2), tree(9)})
    assert read_graph_kept(client, {tree(2)}) == ()


@pytest.mark.parametrize(
    "damage", [b"", b"\x91", msgspec.msgpack.encode([b"no segment"]), msgspec.msgpack.encode(["a"])]
)
def test_a_damaged_one_is_none(client: Repository, damage: bytes) -> None:
    keep_graph(client, edges(3), {tree(2)})
    (client.state / "bisect/graph.zst").write_bytes(damage)
    assert read_graph_kept(client, {tree(2)}) == ()


@pytest.mark.parametrize(("packed", "reads"), [(8, 1), (5, 3)], ids=["packs to all", "not yet"])
def test_the_commands_of_a_session_read_it_once(tmp_path: Path, packed: int, reads: int) -> None:
    """Unless the server may still make packs where there are none."""
    farm = make_farm(tmp_path / "farm", 8, 4)
    commits = [resolve(farm, f"fastqa~{back}") for back in reversed(range(8))]
    steps = list(itertools.pairwise(commits[:packed]))
    publish_packs(farm, [*steps, *((new, old) for old, new in steps)])
    sysroot = make_tester(tmp_path / "sysroot", farm)
    with nginx_serving(farm.path) as server:
        (sysroot.repository.state / "remotes/farm.toml").unlink()
        add_remote(sysroot.repository, remote_at(server.url))
        bisect(sysroot, "start", "fastqa", "--good", "47.1", "--no-deploy", "--no-prefetch")
        bisect(sysroot, "bad", "47.5")
        bisect(sysroot, "good", "47.3")
        assert sum("graph/" in request.path for request in server.requests()) == reads
    assert (sysroot.repository.state / "bisect/graph.zst").exists() == (reads == 1)
    bisect(sysroot, "reset")
    assert not (sysroot.repository.state / "bisect/graph.zst").exists()
