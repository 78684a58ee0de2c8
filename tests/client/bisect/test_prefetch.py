"""Bringing builds ahead: in a process beside, within limits, ended at any moment without harm."""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hacktree.client.bisect.core.choice import choose
from hacktree.client.bisect.core.model import Answered, Candidate, Options, Session, Verdict
from hacktree.client.bisect.core.state import current_state, record
from hacktree.client.bisect.farm.ahead import builds_ahead
from hacktree.client.bisect.farm.costs import BuildTree, estimate_costs
from hacktree.client.bisect.farm.fetching import BuildRequest, bring_build
from hacktree.client.bisect.farm.prefetch import (
    PrefetchLimits,
    build_under_way,
    let_finish,
    start_prefetch,
    stop_prefetch,
)
from hacktree.client.connect import open_source
from hacktree.client.pace import MIN_RATE, Pace
from hacktree.client.plan import LARGE_FILE
from hacktree.client.remote import Remote, add_remote
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
from hacktree.common.repository.revision import resolve
from support.bisectfarm import bisect, make_farm, make_tester
from support.faulty_server import FaultyServer, faulty_server, stall
from support.packmaking import publish_packs
from support.pulling import FakeTime, assert_whole, make_repository, patience, remote_at
from support.trees import Spec, make_commit

BRANCH = parse_branch_name("fastqa")
FREE = PrefetchLimits()
BEGIN = """
import sys
from pathlib import Path
from hacktree.client.bisect.farm.fetching import BuildRequest
from hacktree.client.bisect.farm.prefetch import PrefetchLimits, start_prefetch
from hacktree.common.objects.ids import parse_object_id
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.repository import open_repository
request = BuildRequest(parse_branch_name("fastqa"), parse_object_id(sys.argv[2]))
assert start_prefetch(open_repository(Path(sys.argv[1])), "farm", [request], PrefetchLimits())
sys.stdin.read()
"""
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
    wishes = [BuildRequest(BRANCH, commit) for commit in commits[1:]]
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


@dataclass(frozen=True)
class Stalled:
    """A build of which a large file stops coming half way, once."""

    commit: ObjectId
    tree: str
    remote: Remote
    server: FaultyServer
    reached: asyncio.Event
    goes_on: asyncio.Event


@pytest.fixture
async def stalled(farm: Repository, client: Repository) -> AsyncIterator[Stalled]:
    commit = make_commit(farm, {**tree(1), "large": LARGE})
    root = farm.load_commit(commit).root.id
    entry = next(
        entry
        for _, entry in walk_tree(farm.load_tree, root)
        if isinstance(entry, FileEntry) and entry.size > LARGE_FILE
    )
    async with faulty_server(farm.path) as server:
        (client.state / "remotes/farm.toml").unlink()
        add_remote(client, remote_at(server.url))
        reached, goes_on = asyncio.Event(), asyncio.Event()
        server.faults[f"objects/{archive_name(entry.id)}"].append(
            stall(LARGE_FILE, reached, goes_on)
        )
        tree_path = f"objects/{meta_name(root)}"
        yield Stalled(commit, tree_path, remote_at(server.url), server, reached, goes_on)


async def brought_after_all(client: Repository, stalled: Stalled) -> None:
    """Nothing is half published, and what was staged is used by the pull that follows."""
    assert not is_prefetching(client)
    assert not client.has_meta(stalled.commit)
    await asyncio.to_thread(
        bring_build, client, stalled.remote, BuildRequest(BRANCH, stalled.commit, 4)
    )
    assert len(stalled.server.asked(stalled.tree)) == 1
    assert_whole(client, stalled.commit)
    assert list(client.staging.iterdir()) == []


async def test_ended_in_the_middle_it_leaves_its_work_to_the_pull_that_follows(
    client: Repository, stalled: Stalled
) -> None:
    wishes = [BuildRequest(BRANCH, stalled.commit)]
    assert start_prefetch(client, "farm", wishes, FREE)
    await stalled.reached.wait()
    assert is_prefetching(client)
    assert not start_prefetch(client, "farm", wishes, FREE)
    assert await asyncio.to_thread(stop_prefetch, client)
    await brought_after_all(client, stalled)


@pytest.mark.parametrize("comes", [True, False])
async def test_a_build_that_is_under_way_is_waited_for_but_not_for_long(
    client: Repository, stalled: Stalled, *, comes: bool
) -> None:
    """It is then brought anew; who wants another one doesn't wait."""
    assert build_under_way(client) is None
    assert start_prefetch(client, "farm", [BuildRequest(BRANCH, stalled.commit)], FREE)
    await stalled.reached.wait()
    assert build_under_way(client) == stalled.commit
    assert not let_finish(client, hash_bytes(b"another"), 1e9)
    if comes:
        stalled.goes_on.set()
        assert await asyncio.to_thread(let_finish, client, stalled.commit, 1e9)
        assert_whole(client, stalled.commit)
    else:
        assert not await asyncio.to_thread(let_finish, client, stalled.commit, 0.1)
        assert await asyncio.to_thread(stop_prefetch, client)
        await brought_after_all(client, stalled)


async def test_an_answer_waits_a_moment_for_the_build_that_it_leads_to(tmp_path: Path) -> None:
    """And brings it itself where it doesn't come."""
    farm = make_farm(tmp_path / "farm", 5, 3)
    tester = make_tester(tmp_path / "tester", farm)
    reached = asyncio.Event()
    async with faulty_server(farm.path) as server:
        (tester.repository.state / "remotes/farm.toml").unlink()
        add_remote(tester.repository, remote_at(server.url))
        builds = {}
        for number, word in ((2, "bad"), (4, "good")):
            content = hash_bytes(b"VERSION=%d\n" % number)
            server.faults[f"objects/{archive_name(content)}"].append(stall(1, reached))
            builds[resolve(farm, f"fastqa~{5 - number}")] = word
        start = ("start", "fastqa", "--good", "47.1", "--no-deploy", "--verify", "never")
        assert "Next: fastqa 3" in (await asyncio.to_thread(bisect, tester, *start)).stdout
        await reached.wait()
        build = build_under_way(tester.repository)
        assert build is not None
        said = (await asyncio.to_thread(bisect, tester, builds[build])).stdout
        assert "which is on its way" in said
        assert tester.repository.has_meta(build)
        await asyncio.to_thread(bisect, tester, "reset")
    assert not is_prefetching(tester.repository)


async def test_killed_by_somebody_else_it_leaves_no_less(
    client: Repository, stalled: Stalled
) -> None:
    assert start_prefetch(client, "farm", [BuildRequest(BRANCH, stalled.commit)], FREE)
    await stalled.reached.wait()
    lock = client.state / "bisect/prefetch.lock"
    os.kill(int(lock.read_text().split()[0]), signal.SIGKILL)
    await asyncio.to_thread(wait_for_its_end, client)
    assert not stop_prefetch(client)
    await brought_after_all(client, stalled)


async def test_it_goes_on_when_who_began_it_is_killed_and_others_can_end_it(
    client: Repository, stalled: Stalled
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        BEGIN,
        client.path,
        stalled.commit.hex(),
        stdin=asyncio.subprocess.PIPE,
    )
    await stalled.reached.wait()
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    assert is_prefetching(client)
    assert await asyncio.to_thread(stop_prefetch, client)
    await brought_after_all(client, stalled)


async def test_it_holds_no_lock_of_who_began_it(client: Repository, stalled: Stalled) -> None:
    """It is a copy of that process, but what that one locks is free when that one lets go."""
    path = client.state / "held"
    path.touch()
    with hold_lock(path, LockKind.EXCLUSIVE):
        assert start_prefetch(client, "farm", [BuildRequest(BRANCH, stalled.commit)], FREE)
        await stalled.reached.wait()
    with hold_lock(path, LockKind.EXCLUSIVE):
        assert await asyncio.to_thread(stop_prefetch, client)


def test_a_build_that_takes_more_than_the_space_is_left_and_a_smaller_one_comes(
    farm: Repository, client: Repository
) -> None:
    large = make_commit(farm, {"large": LARGE})
    small = make_commit(farm, tree(1))
    space = PrefetchLimits(space=1_000_000)
    assert start_prefetch(
        client, "farm", [BuildRequest(BRANCH, large), BuildRequest(BRANCH, small)], space
    )
    log = wait_for_its_end(client)
    assert "left for bringing ahead" in log
    assert not client.has_meta(large)
    assert_whole(client, small)


def test_what_goes_wrong_is_in_its_log_and_nowhere_else(
    farm: Repository, client: Repository
) -> None:
    gone = hash_bytes(b"no such commit")
    there = make_commit(farm, tree(1))
    assert start_prefetch(
        client, "farm", [BuildRequest(BRANCH, gone), BuildRequest(BRANCH, there)], FREE
    )
    assert "no longer served" in wait_for_its_end(client)
    assert_whole(client, there)
    assert start_prefetch(client, "elsewhere", [BuildRequest(BRANCH, there)], FREE)
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


def test_no_more_than_what_the_two_verdicts_lead_to_is_brought_ahead() -> None:
    searched = Line(100)
    state = current_state(searched.session)
    ahead = builds_ahead(state, 32, searched.trees, searched.held(0, 32), searched.edges)
    lower, upper = ahead if state.line.index(ahead[0]) < 32 else ahead[::-1]
    assert state.line.index(lower) < 32 < state.line.index(upper) < 63


def test_what_a_skip_leads_to_is_brought_last_where_builds_had_to_be_skipped() -> None:
    searched = Line(100)
    session = record(searched.session, Answered(searched.session.line[31].commit, Verdict.SKIP))
    state = current_state(session)
    trees, held, edges = searched.trees, searched.held(0, 31, 32), searched.edges
    ahead = builds_ahead(state, 32, trees, held, edges)
    skipped = current_state(record(session, Answered(session.line[32].commit, Verdict.SKIP)))
    choice = choose(skipped, estimate_costs(trees, held, edges))
    assert choice is not None
    assert len(ahead) == 3
    assert ahead[-1] == choice.candidate


def test_the_cheaper_comes_first_and_among_equals_the_likelier() -> None:
    searched = Line(5_000_000)
    state, index = current_state(searched.session), 32
    trees, edges = searched.trees, searched.edges

    def first(*held: int, priors: dict[str, int] | None = None) -> int:
        found = builds_ahead(state, index, trees, searched.held(index, *held), edges, priors)
        return state.line.index(found[0])

    assert first(0, 46) > index
    assert first(14) < index
    commits = [build.commit for build in state.line]
    assert first(0, priors=dict.fromkeys(commits[1:index], 100)) < index
    assert first(0, priors=dict.fromkeys(commits[index + 1 :], 100)) > index
