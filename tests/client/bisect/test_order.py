"""The order of travel, over HTTP: where packs only lead forward, from the good end on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from hacktree.client.bisect.core.state import current_state
from hacktree.client.bisect.store import read_bisection
from hacktree.client.remote import Remote, add_remote
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.walk import walk_tree
from hacktree.common.repository.objectnames import content_name, meta_name
from hacktree.common.repository.repository import open_repository
from support.bisectfarm import add_build, bisect, make_farm
from support.enterable import hacktree
from support.packmaking import publish_packs
from support.pulling import assert_whole
from support.servers import RunningServer, nginx_serving
from support.sysroots import make_sysroot
from support.trees import Spec

BUILDS, CULPRIT, FILES, FILE = 9, 3, 3, 1_400_000
START = ("start", "fastqa", "--good", "47.1", "--no-deploy", "--no-prefetch")
TEST = ("run", "--host", "--", "sh", "-c", 'grep -q fine "$HACKTREE_ROOT/usr/share/state"')


@dataclass(frozen=True)
class Farm:
    """Builds of which each changes the same large files, and packs that only lead forward."""

    path: Path
    server: RunningServer
    commits: list[ObjectId]

    def tester(self, path: Path, *, deployed: bool) -> Sysroot:
        """A machine that has deployed the newest build, or none."""
        sysroot = make_sysroot(path)
        (sysroot.repository.path / "config.toml").write_text('min-free-space = "0"\n')
        add_remote(sysroot.repository, Remote("farm", self.server.url, "unsigned"))
        if deployed:
            done = hacktree(sysroot, "pull", "fastqa")
            assert done.returncode == 0, done.stderr
        return sysroot

    def large_files(self, commit: ObjectId) -> set[str]:
        """Paths of the files that no other build has."""
        repository = open_repository(self.path)
        tree = repository.load_commit(commit).root.id
        return {
            f"/objects/{content_name(repository.mode, entry)}"
            for _, entry in walk_tree(repository.load_tree, tree)
            if isinstance(entry, FileEntry) and entry.size >= FILE
        }

    @contextmanager
    def without_packs(self) -> Iterator[None]:
        """Nobody is told of the packs."""
        graph = self.path / "graph"
        hidden = graph.rename(self.path / "graph-hidden")
        try:
            yield
        finally:
            hidden.rename(graph)

    def sent(self, since: int = 0) -> list[tuple[str, int]]:
        """Paths and bytes of what was asked for since so many requests."""
        return [(request.path, request.length) for request in self.server.requests()[since:]]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    path = tmp_path_factory.mktemp("order") / "farm"
    repository, commits = make_farm(path, 0, 0), []
    fixed = [os.urandom(FILE) for _ in range(FILES)]
    for number in range(1, BUILDS + 1):
        large: dict[str | bytes, Spec] = {
            f"usr/lib/{n}": b"%d" % number + data for n, data in enumerate(fixed)
        }
        commits.append(add_build(repository, number, broken=number >= CULPRIT, tree=large))
    steps = [(a, b) for a in range(BUILDS) for b in (a + 1, a + 2, a + 4, a + 8) if b < BUILDS]
    publish_packs(repository, [(commits[a], commits[b]) for a, b in steps])
    with nginx_serving(path) as server:
        yield Farm(path, server, commits)


def search(farm: Farm, sysroot: Sysroot, *options: str) -> tuple[int, list[str]]:
    """Bytes of the search from start to end, and the contents asked for one by one in the tests
    after the first."""
    before = len(farm.sent())
    bisect(sysroot, *START, *options)
    begun = len(farm.sent())
    done = bisect(sysroot, *TEST)
    assert f"First bad build: fastqa {CULPRIT} " in done.stdout
    size = sum(length for _, length in farm.sent(before))
    return size, [path for path, _ in farm.sent(begun) if path.endswith(".file.zst")]


@pytest.mark.parametrize("deployed", [True, False])
def test_going_forward_from_the_good_end_takes_fewer_bytes(
    farm: Farm, tmp_path: Path, *, deployed: bool
) -> None:
    """Once it is here everything comes over packs; without, whole files come again and again."""
    first, singly = search(farm, farm.tester(tmp_path / "first", deployed=deployed))
    machine = farm.tester(tmp_path / "later", deployed=deployed)
    later, _ = search(farm, machine, "--no-old-end-first")
    assert singly == []
    assert first < later - FILE * FILES


def test_start_tells_what_both_orders_take(farm: Farm, tmp_path: Path) -> None:
    """Both figures, for people and programs, without anything brought."""
    sysroot = farm.tester(tmp_path / "sysroot", deployed=True)
    shown = bisect(sysroot, *START, "--dry-run").stdout
    told = "The old end is brought first: 1.7 MB for it, about 1.7 MB in all; without it about "
    assert told in shown
    shown = bisect(sysroot, *START, "--no-old-end-first", "--dry-run").stdout
    assert "The old end is not brought first; with it about 1.7 MB in all" in shown
    for options, first in (((), True), (("--no-old-end-first",), False)):
        done = bisect(sysroot, *START, *options, "--dry-run", "--json")
        told = msgspec.json.decode(done.stdout)["forecast"]
        assert told["old-end"]["brought-first"] is first
        assert told["old-end"]["search-bytes-first"] < told["old-end"]["search-bytes-later"]
        name = "search-bytes-first" if first else "search-bytes-later"
        assert told["bytes"] == told["old-end"][name]
    assert not sysroot.repository.has_meta(farm.commits[0])


def test_the_old_end_comes_before_the_first_candidate_whatever_it_costs(
    farm: Farm, tmp_path: Path
) -> None:
    """Without packs it is one whole build more: `start` says so, and how to spare it."""
    with farm.without_packs():
        sysroot = farm.tester(tmp_path / "first", deployed=True)
        before = len(farm.sent())
        assert "(--no-old-end-first)" in bisect(sysroot, *START).stdout
        asked = [path for path, _ in farm.sent(before)]
        intent = read_bisection(sysroot).local.intent
        assert intent is not None
        old_end, candidate = (
            [asked.index(path) for path in farm.large_files(commit)]
            for commit in (farm.commits[0], parse_object_id(intent.commit))
        )
        assert len(old_end) == len(candidate) == FILES
        assert max(old_end) < min(candidate)

        spared = farm.tester(tmp_path / "later", deployed=True)
        before = len(farm.sent())
        search(farm, spared, "--no-old-end-first")
        asked = [path for path, _ in farm.sent(before)]
    assert farm.large_files(farm.commits[0]).isdisjoint(asked)
    assert not spared.repository.has_meta(farm.commits[0])


def test_the_lower_bound_is_kept_and_every_step_goes_forward_over_packs(
    farm: Farm, tmp_path: Path
) -> None:
    """Though the root that held the good end is removed, everything is pruned that can be, and
    nothing may be brought ahead; until `reset`."""
    sysroot = farm.tester(tmp_path / "sysroot", deployed=False)
    for wanted in ("fastqa~8", "fastqa"):
        assert hacktree(sysroot, "pull", wanted).returncode == 0
    options = ("--verify", "never", "--no-deploy", "--prefetch-space", "1")
    before = len(farm.sent())
    bisect(sysroot, "start", "--good", "previous", "--bad", "current", *options)
    previous = read_roots(sysroot).previous
    assert previous is not None
    assert hacktree(sysroot, "undeploy", previous, "--force").returncode == 0
    bounds = [0]
    while (state := current_state(read_bisection(sysroot).session)).outcome is None:
        assert hacktree(sysroot, "prune").returncode == 0
        assert state.before.commit == farm.commits[bounds[-1]].hex()
        for bound in bounds:
            assert_whole(sysroot.repository, farm.commits[bound])
        intent = read_bisection(sysroot).local.intent
        assert intent is not None
        bounds.append(farm.commits.index(parse_object_id(intent.commit)))
        bisect(sysroot, "good")
    assert bounds == [0, 4, 6, 7]
    asked = [path for path, _ in farm.sent(before)]
    assert [path for path in asked if path.endswith(".file.zst")] == []
    assert len({path for path in asked if path.startswith("/packs/")}) >= len(bounds) - 1

    bisect(sysroot, "reset")
    assert hacktree(sysroot, "prune").returncode == 0
    # The others are parents of the newest, which its ref keeps.
    assert not any(sysroot.repository.has_meta(farm.commits[bound]) for bound in (0, 4))


def test_who_goes_on_with_a_colleagues_search_decides_for_his_own_machine(
    farm: Farm, tmp_path: Path
) -> None:
    """Nothing of the order is in the file; the lower bound is that of the search by then."""
    sysroot = farm.tester(tmp_path / "one", deployed=True)
    bisect(sysroot, *START, "--no-old-end-first")
    log = bisect(sysroot, "log").stdout
    (tmp_path / "log").write_text(log)
    other = farm.tester(tmp_path / "other", deployed=True)
    bisect(other, "replay", str(tmp_path / "log"), "--no-deploy", "--no-prefetch")
    assert bisect(other, "log").stdout == log
    assert "The old end is brought first: " in bisect(other, "next").stdout
    assert other.repository.has_meta(farm.commits[0])
    assert not sysroot.repository.has_meta(farm.commits[0])
    assert bisect(other, "log").stdout == log
    assert read_bisection(other).local.old_end == farm.commits[0].hex()
    third = farm.tester(tmp_path / "third", deployed=True)
    bisect(third, "replay", str(tmp_path / "log"), "--no-deploy", "--no-prefetch")
    bisect(third, "next", "--no-old-end-first")
    assert not third.repository.has_meta(farm.commits[0])


def test_an_old_end_that_the_farm_has_pruned_is_left_out(farm: Farm, tmp_path: Path) -> None:
    """No test needs it: the search goes on without it."""
    sysroot = farm.tester(tmp_path / "sysroot", deployed=True)
    commit = farm.commits[0]
    root = open_repository(farm.path).load_commit(commit).root.id
    paths = [farm.path / "objects" / meta_name(pruned) for pruned in (commit, root)]
    away = [path.rename(tmp_path / path.name) for path in paths]
    try:
        done = bisect(sysroot, *START)
    finally:
        for moved, path in zip(away, paths, strict=True):
            moved.rename(path)
    assert "is not brought first: " in done.stdout
    assert "the build is no longer served" in done.stdout
    assert read_bisection(sysroot).local.old_end == ""
    assert f"First bad build: fastqa {CULPRIT} " in bisect(sysroot, *TEST).stdout
