"""Where builds on both sides of the wanted one are here, hardly anything but trees is fetched."""

import random

from hacktree.client.bisect.farm.fetching import BuildRequest, bring_build
from hacktree.client.pull import PullResult
from hacktree.client.remote import Remote
from hacktree.common.delta.graph import Edge
from hacktree.common.delta.prefer import Prefer
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.repository import Repository
from support.packmaking import publish_packs
from support.pulling import assert_whole, remote_at
from support.servers import RunningServer, nginx_serving
from support.trees import Spec, make_commit

BRANCH = parse_branch_name("fastqa")
NUMBERS = random.Random(7)
LARGE = NUMBERS.randbytes(200_000)
STATUS = NUMBERS.randbytes(2_000)
Tree = dict[str | bytes, Spec]


def many(text: bytes) -> Tree:
    """Files that say little, in a directory that takes kilobytes."""
    return {f"many/{number}": text + b"%d" % number for number in range(150)}


def bring(client: Repository, remote: Remote, commit: ObjectId) -> PullResult:
    """As a bisection brings a build ahead."""
    return bring_build(client, remote, BuildRequest(BRANCH, commit, 4, Prefer.BYTES))[0]


def have_both_ends(
    farm: Repository, client: Repository, middle: Tree
) -> tuple[ObjectId, Edge, Edge]:
    """The build in the middle, and two packs to it: one from the older end, which holds a file of
    200 kB, and a smaller one from the newer end, whose head takes more.
    """
    old = make_commit(farm, {**many(b"a"), "status": STATUS})
    new = make_commit(farm, {**many(b"b"), "large": LARGE, "status": STATUS + b"new"})
    wanted = make_commit(farm, {**many(b"a"), **middle, "status": STATUS + b"middle"})
    for end in (old, new):
        bring(client, remote_at(f"file://{farm.path}"), end)
    light, small = publish_packs(farm, [(old, wanted), (new, wanted)])
    assert 4 * light.head_length < small.head_length < small.length < light.length / 4
    return wanted, light, small


def asked_of(server: RunningServer, edge: Edge) -> int:
    """Requests for parts of a pack."""
    return sum(edge.pack.hex() in request.path for request in server.requests())


def test_the_cheapest_heads_tell_that_nothing_else_is_lacking(
    farm: Repository, client: Repository
) -> None:
    """Of the larger pack, next to nothing is fetched; of the smaller one, nothing at all."""
    wanted, light, small = have_both_ends(farm, client, {"large": LARGE})
    with nginx_serving(farm.path) as server:
        bring(client, remote_at(server.url), wanted)
        assert asked_of(server, light) == 1
        assert asked_of(server, small) == 0
        assert sum(request.length for request in server.requests()) < small.head_length
    assert assert_whole(client, wanted) == assert_whole(farm, wanted)


def test_the_smaller_pack_is_taken_where_its_objects_are_lacking(
    farm: Repository, client: Repository
) -> None:
    """After the heads of both were read."""
    changed = LARGE[:100_000] + b"changed" + LARGE[100_007:]
    wanted, light, small = have_both_ends(farm, client, {"large": changed})
    with nginx_serving(farm.path) as server:
        result = bring(client, remote_at(server.url), wanted)
        assert asked_of(server, light) == 1
        assert asked_of(server, small) > 1  # Its head, and frames.
    assert result.packs.notes == []
    assert assert_whole(client, wanted) == assert_whole(farm, wanted)


def test_a_pack_that_is_gone_is_done_without(farm: Repository, client: Repository) -> None:
    """The one whose head is looked into first, too."""
    wanted, light, small = have_both_ends(farm, client, {"large": LARGE})
    (farm.path / "packs" / light.pack.hex()).unlink()
    with nginx_serving(farm.path) as server:
        result = bring(client, remote_at(server.url), wanted)
        assert asked_of(server, small) >= 1
    (note,) = result.packs.notes
    assert light.pack.hex() in note
    assert "no such file" in note
    assert assert_whole(client, wanted) == assert_whole(farm, wanted)
