"""Bringing a build to test: exactly that build, kept by a pin, while no ref moves."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hacktree.client.bisect.farm.fetching import (
    BuildGoneError,
    BuildRequest,
    bring_build,
    pin_build,
    release_builds,
)
from hacktree.client.remote import Remote
from hacktree.client.source import NotServedError, WrongBytesError
from hacktree.client.target import WrongBranchError
from hacktree.common.delta.graph import decode_segment
from hacktree.common.objects.commit import MAX_COMMIT_SIZE
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.layout import Mode, NotARepositoryError
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.objectnames import meta_name
from hacktree.common.repository.prune import prune, read_pins
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.retention import Policy
from support.packmaking import publish_packs
from support.pulling import assert_whole, make_repository, remote_at
from support.servers import RunningServer, nginx_serving
from support.trees import Spec, make_commit

BRANCH = parse_branch_name("fastqa")


def tree(number: int) -> dict[str | bytes, Spec]:
    return {f"d/{i}": bytes([i]) * 5000 + b"%d" % number + bytes(5000) for i in range(6)}


class Farm:
    """Four builds and the packs between neighbours, behind a real nginx."""

    def __init__(self, path: Path, server: RunningServer) -> None:
        self.repository = make_repository(path)
        self.commits = [make_commit(self.repository, tree(number)) for number in range(4)]
        publish_packs(self.repository, list(zip(self.commits, self.commits[1:], strict=False)))
        self.server = server
        self.remote = remote_at(server.url)

    def requests(self, what: str) -> list[str]:
        return [r.path for r in self.server.requests() if r.path.startswith(what)]


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    path = tmp_path / "farm"
    path.mkdir()
    with nginx_serving(path) as server:
        yield Farm(path, server)


@pytest.fixture
def client(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "client", Mode.BARE_USER)


def request(commit: ObjectId) -> BuildRequest:
    return BuildRequest(BRANCH, commit, connections=4)


def prune_all(repository: Repository) -> None:
    prune(repository, Policy(), now=time.time(), grace=0.0)


def test_a_build_is_brought_and_kept_without_moving_a_ref(farm: Farm, client: Repository) -> None:
    result, traffic = bring_build(client, farm.remote, request(farm.commits[1]))
    assert result.target.id == farm.commits[1]
    assert traffic.bytes > 0
    assert assert_whole(client, farm.commits[1]) == assert_whole(farm.repository, farm.commits[1])
    assert list_refs(client) == {}
    assert list(client.staging.iterdir()) == []
    prune_all(client)
    assert_whole(client, farm.commits[1])


def test_the_next_build_comes_by_packs_from_the_one_that_a_pin_keeps(
    farm: Farm, client: Repository
) -> None:
    bring_build(client, farm.remote, request(farm.commits[0]))
    result, _ = bring_build(client, farm.remote, request(farm.commits[2]))
    assert result.packs.objects == 6
    assert result.totals.fetched_objects == 0
    assert_whole(client, farm.commits[2])


def test_a_graph_that_was_read_already_is_not_read_again(farm: Farm, client: Repository) -> None:
    edges = decode_segment((farm.repository.path / "graph/tail").read_bytes()).edges
    bring_build(client, farm.remote, request(farm.commits[0]))
    result, _ = bring_build(
        client, farm.remote, BuildRequest(BRANCH, farm.commits[1], 4, edges=edges)
    )
    assert result.packs.objects == 6
    assert farm.requests("/graph/") == []


def test_a_commit_that_history_had_is_not_fetched_again(farm: Farm, client: Repository) -> None:
    commit = farm.commits[1]
    data = farm.repository.read_meta(commit, MAX_COMMIT_SIZE)
    bring_build(client, farm.remote, BuildRequest(BRANCH, commit, 4, data=data))
    assert farm.requests(f"/objects/{meta_name(commit)}") == []
    assert_whole(client, commit)


def test_a_commit_that_was_kept_damaged_is_fetched(farm: Farm, client: Repository) -> None:
    commit = farm.commits[1]
    bring_build(client, farm.remote, BuildRequest(BRANCH, commit, 4, data=b"nonsense"))
    assert_whole(client, commit)


def test_a_build_that_is_here_needs_no_network(farm: Farm, client: Repository) -> None:
    for commit in farm.commits[:2]:
        bring_build(client, farm.remote, request(commit))
    before = len(farm.requests("/"))
    for commit in farm.commits[:2]:
        _, traffic = bring_build(client, farm.remote, request(commit))
        assert traffic.requests == 0
    assert len(farm.requests("/")) == before


def test_released_builds_go_with_the_next_prune_and_others_stay(
    farm: Farm, client: Repository
) -> None:
    first, second, third, _ = farm.commits
    for commit in (first, second, third):
        bring_build(client, farm.remote, request(commit))
    other = client.state / "pins/root-fastqa.1"
    other.write_text(f"{third.hex()}\n")
    assert release_builds(client, keep=[first]) == 2
    assert set(read_pins(client).values()) == {first, third}
    prune_all(client)
    assert not client.has_meta(second)
    for commit in (first, third):
        assert_whole(client, commit)
    assert release_builds(client) == 1
    assert release_builds(client) == 0


def test_a_pin_of_a_build_that_is_not_here_harms_nobody(farm: Farm, client: Repository) -> None:
    pin_build(client, farm.commits[3])
    prune_all(client)
    bring_build(client, farm.remote, request(farm.commits[0]))
    assert_whole(client, farm.commits[0])


def test_a_build_that_the_server_has_pruned_is_named_as_gone(
    farm: Farm, client: Repository
) -> None:
    (farm.repository.objects / meta_name(farm.commits[1])).unlink()
    with pytest.raises(BuildGoneError) as caught:
        bring_build(client, farm.remote, request(farm.commits[1]))
    assert "pruned" in caught.value.hint


def test_a_build_whose_objects_are_gone_is_gone_if_its_commit_is(
    farm: Farm, client: Repository
) -> None:
    commit = farm.commits[1]
    data = farm.repository.read_meta(commit, MAX_COMMIT_SIZE)
    wanted = BuildRequest(BRANCH, commit, 4, data=data)
    root = farm.repository.load_commit(commit).root.id
    (farm.repository.objects / meta_name(root)).unlink()
    with pytest.raises(NotServedError) as caught:
        bring_build(client, farm.remote, wanted)
    assert not isinstance(caught.value, BuildGoneError), "the server lacks a tree of its own build"
    (farm.repository.objects / meta_name(commit)).unlink()
    with pytest.raises(BuildGoneError):
        bring_build(client, farm.remote, wanted)


def test_other_bytes_than_those_of_the_commit_are_refused(farm: Farm, client: Repository) -> None:
    first, second = (farm.repository.objects / meta_name(c) for c in farm.commits[:2])
    data = second.read_bytes()
    first.unlink()
    first.write_bytes(data)
    with pytest.raises(WrongBytesError):
        bring_build(client, farm.remote, request(farm.commits[0]))
    assert not client.has_meta(farm.commits[0])


def test_a_build_of_another_branch_is_refused(farm: Farm, client: Repository) -> None:
    stranger = make_commit(farm.repository, tree(9), branch="other")
    with pytest.raises(WrongBranchError):
        bring_build(client, farm.remote, request(stranger))
    assert not client.has_meta(stranger)


def test_an_unreachable_server_leaves_what_is_here(client: Repository, farm: Farm) -> None:
    bring_build(client, farm.remote, request(farm.commits[0]))
    nowhere = Remote("farm", f"file://{client.path}/nothing", "unsigned")
    with pytest.raises(NotARepositoryError):
        bring_build(client, nowhere, request(farm.commits[1]))
    assert_whole(client, farm.commits[0])


def test_a_build_that_is_here_is_taken_only_when_no_prune_is_deleting_it(
    farm: Farm, client: Repository
) -> None:
    commit = farm.commits[0]
    bring_build(client, farm.remote, request(commit))
    release_builds(client)
    # As a prune does that was planned before the pin: it deletes under the exclusive lock.
    with ThreadPoolExecutor(1) as executor:
        with client.lock(LockKind.EXCLUSIVE):
            bringing = executor.submit(bring_build, client, farm.remote, request(commit))
            while commit not in read_pins(client).values():
                assert not bringing.done()
            (client.objects / meta_name(commit)).unlink()
        _, traffic = bringing.result()
    assert traffic.requests > 0
    assert_whole(client, commit)
