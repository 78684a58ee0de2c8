"""Bringing builds ahead: in a process beside, within limits, ended at any moment without harm."""

import asyncio
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hacktree.client.bisect.core.choice import choose
from hacktree.client.bisect.core.model import Answered, Candidate, Options, Session, Verdict
from hacktree.client.bisect.core.state import current_state, record
from hacktree.client.bisect.farm.ahead import MAX_AHEAD, builds_ahead
from hacktree.client.bisect.farm.costs import BuildTree, estimate_costs
from hacktree.client.bisect.farm.fetching import BuildRequest, bring_build
from hacktree.client.bisect.farm.prefetch import (
    PrefetchLimits,
    start_prefetch,
    stop_prefetch,
)
from hacktree.client.connect import open_source
from hacktree.client.pace import MIN_RATE, Pace
from hacktree.client.plan import LARGE_FILE
from hacktree.client.remote import add_remote
from hacktree.common.delta.graph import Edge
from hacktree.common.errors import UserError
from hacktree.common.objects.commit import MAX_COMMIT_SIZE
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.walk import walk_tree
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.locks import LockKind, hold_lock, try_lock
from hacktree.common.repository.objectnames import archive_name, meta_name
from hacktree.common.repository.prune import read_pins
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from support.bisectfarm import bisect, make_farm, make_tester
from support.faulty_server import faulty_server, stall
from support.packmaking import publish_packs
from support.pulling import FakeTime, assert_whole, make_repository, patience, remote_at
from support.trees import Spec, make_commit

BRANCH = parse_branch_name("fastqa")
FREE = PrefetchLimits()
LARGE = os.urandom(LARGE_FILE + 100_000)


def tree(number: int) -> dict[str | bytes, Spec]:
    return {f"d/{i}": bytes([i]) * 5000 + b"%d" % number + bytes(5000) for i in range(6)}


@pytest.fixture
def farm(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "farm")


@pytest.fixture
def client(tmp_path: Path, farm: Repository) -> Repository:
    client = make_repository(tmp_path / "client", Mode.BARE_USER)
    add_remote(client, remote_at(f"file://{farm.path}"))
    return client


def wait_for_its_end(repository: Repository) -> str:
    with hold_lock(repository.state / "bisect/prefetch.lock", LockKind.EXCLUSIVE, timeout=120):
        return (repository.state / "bisect/prefetch.log").read_text()


def is_prefetching(repository: Repository) -> bool:
    with (repository.state / "bisect/prefetch.lock").open() as lock:
        return not try_lock(lock.fileno(), LockKind.SHARED)


def test_builds_that_were_brought_ahead_need_no_network_when_their_turn_comes(
    farm: Repository, client: Repository
) -> None:
    commits = [make_commit(farm, tree(number)) for number in range(3)]
    publish_packs(farm, [(commits[0], commits[1]), (commits[0], commits[2])])
    remote = remote_at(f"file://{farm.path}")
    bring_build(client, remote, BuildRequest(BRANCH, commits[0], 4))
    wishes = [(BRANCH, commit) for commit in commits[1:]]
    assert start_prefetch(client, "farm", wishes, FREE)
    log = wait_for_its_end(client)
    assert log.count(": here, ") == 2
    assert not is_prefetching(client)
    assert not stop_prefetch(client)
    for commit in commits[1:]:
        assert_whole(client, commit)
        assert commit in read_pins(client).values()
        _, traffic = bring_build(client, remote, BuildRequest(BRANCH, commit, 4))
        assert traffic.requests == 0
    assert list_refs(client) == {}
    assert not (client.state / "bandwidth").exists()


async def test_ended_in_the_middle_it_leaves_its_work_to_the_pull_that_follows(
    farm: Repository, client: Repository, tmp_path: Path
) -> None:
    commit = make_commit(farm, {**tree(1), "large": LARGE})
    entry = next(
        entry
        for _, entry in walk_tree(farm.load_tree, farm.load_commit(commit).root.id)
        if isinstance(entry, FileEntry) and entry.size > LARGE_FILE
    )
    async with faulty_server(farm.path) as server:
        remote = remote_at(server.url)
        (client.state / "remotes/farm.toml").unlink()
        add_remote(client, remote)
        stalled = asyncio.Event()
        path = f"objects/{archive_name(entry.id)}"
        server.faults[path].append(stall(LARGE_FILE, stalled))
        assert start_prefetch(client, "farm", [(BRANCH, commit)], FREE)
        await stalled.wait()
        assert is_prefetching(client)
        assert not start_prefetch(client, "farm", [(BRANCH, commit)], FREE)
        assert await asyncio.to_thread(stop_prefetch, client)
        assert not is_prefetching(client)
        assert not client.has_meta(commit)
        await asyncio.to_thread(bring_build, client, remote, BuildRequest(BRANCH, commit, 4))
        assert len(server.asked(path)) == 2
        tree_path = f"objects/{meta_name(farm.load_commit(commit).root.id)}"
        assert len(server.asked(tree_path)) == 1, "what was staged is used"
    assert_whole(client, commit)
    assert list(client.staging.iterdir()) == []


def test_a_build_that_takes_more_than_the_space_is_left_and_a_smaller_one_comes(
    farm: Repository, client: Repository
) -> None:
    large = make_commit(farm, {"large": LARGE})
    small = make_commit(farm, tree(1))
    space = PrefetchLimits(space=1_000_000)
    assert start_prefetch(client, "farm", [(BRANCH, large), (BRANCH, small)], space)
    log = wait_for_its_end(client)
    assert "left for bringing ahead" in log
    assert not client.has_meta(large)
    assert_whole(client, small)


def test_what_goes_wrong_is_in_its_log_and_nowhere_else(
    farm: Repository, client: Repository
) -> None:
    gone = hash_bytes(b"no such commit")
    there = make_commit(farm, tree(1))
    assert start_prefetch(client, "farm", [(BRANCH, gone), (BRANCH, there)], FREE)
    assert "no longer served" in wait_for_its_end(client)
    assert_whole(client, there)
    assert start_prefetch(client, "elsewhere", [(BRANCH, there)], FREE)
    assert "there is no remote elsewhere" in wait_for_its_end(client)


def test_without_anything_to_bring_nothing_is_started(client: Repository) -> None:
    assert not start_prefetch(client, "farm", [], FREE)
    assert not is_prefetching(client)
    assert not stop_prefetch(client)


async def test_a_pace_holds_all_together_to_its_rate_and_a_pause_is_worth_a_burst() -> None:
    time = FakeTime()
    pace = Pace(100_000, time.clock, time.sleep)
    for _ in range(10):
        await pace.spend(50_000)
    assert time.now == pytest.approx(5.0)
    time.now += 60
    before = time.now
    await pace.spend(25_000)
    assert time.now == before
    await pace.spend(100_000)
    assert time.now - before == pytest.approx(1.0)


async def test_the_network_is_read_at_the_pace(farm: Repository) -> None:
    time = FakeTime()
    commit = make_commit(farm, tree(1))
    async with faulty_server(farm.path) as server:
        pace = Pace(MIN_RATE, time.clock, time.sleep)
        async with open_source(remote_at(server.url), patience(FakeTime()), 4, pace) as source:
            data = [await source.read_meta(commit, MAX_COMMIT_SIZE) for _ in range(10)]
    assert time.now == pytest.approx(sum(map(len, data)) / MIN_RATE)


def test_a_pace_too_slow_for_connections_is_refused() -> None:
    time = FakeTime()
    with pytest.raises(UserError):
        Pace(MIN_RATE - 1, time.clock, time.sleep)


def test_a_rate_too_slow_for_connections_is_refused_at_the_start(tmp_path: Path) -> None:
    tester = make_tester(tmp_path / "tester", make_farm(tmp_path / "farm", 3, 2))
    slow = ("start", "fastqa", "--good", "47.1", "--no-deploy", "--prefetch-rate", "1kB")
    assert "64000 or more" in bisect(tester, *slow, status=2).stderr


def line(count: int) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(hash_bytes(b"commit %d" % n).hex(), "fastqa", n + 1, 1_700_000_000 + n)
        for n in range(count)
    )


@dataclass(frozen=True)
class Line:
    """64 builds, each joined to the one before by a pack of so many bytes."""

    pack: int
    session: Session = field(init=False)
    trees: dict[str, BuildTree] = field(init=False)
    edges: list[Edge] = field(init=False)

    def __post_init__(self) -> None:
        builds = line(64)
        trees = {b.commit: BuildTree(hash_bytes(b.commit.encode()), 1 << 40) for b in builds}
        pairs = itertools.pairwise(tree.tree for tree in trees.values())
        edges = [
            Edge(old, new, hash_bytes(old + new), 1, self.pack, 1, 1 << 40, 1) for old, new in pairs
        ]
        object.__setattr__(self, "trees", trees)
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "session", Session("0" * 32, "farm", 0, Options(), builds))

    def held(self, *indices: int) -> set[ObjectId]:
        trees = list(self.trees.values())
        return {trees[index].tree for index in indices}


@pytest.mark.parametrize("pack", [100, 5_000_000])
def test_whatever_is_found_the_build_that_comes_next_was_brought_ahead(pack: int) -> None:
    searched = Line(pack)
    trees, edges = searched.trees, searched.edges
    for first_bad in (2, 31, 40, 63):
        going, held = searched.session, searched.held(0)
        while True:
            state = current_state(going)
            choice = choose(state, estimate_costs(trees, held, edges))
            if choice is None or choice.purpose != "search":
                break
            held.add(trees[choice.candidate.commit].tree)
            ahead = builds_ahead(state, choice.index, trees, held, edges)
            assert choice.candidate not in ahead
            held.update(trees[build.commit].tree for build in ahead)
            verdict = Verdict.BAD if choice.index >= first_bad else Verdict.GOOD
            going = record(going, Answered(choice.candidate.commit, verdict))
            after = choose(current_state(going), estimate_costs(trees, held, edges))
            assert after is None or trees[after.candidate.commit].tree in held
        assert state.suspects[0] == going.line[first_bad]


def test_what_costs_bytes_is_brought_one_test_ahead_and_the_rest_further() -> None:
    dear, cheap = Line(50_000_000), Line(100)
    state = current_state(dear.session)
    index = 32
    few = builds_ahead(state, index, dear.trees, dear.held(0, index), dear.edges)
    many = builds_ahead(state, index, cheap.trees, cheap.held(0, index), cheap.edges)
    assert 2 <= len(few) <= 3, "good, bad and skip"
    assert len(many) == MAX_AHEAD
    assert not set(many) & {state.line[0], state.line[index]}
