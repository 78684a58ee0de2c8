"""The order of travel, over HTTP: where packs only lead forward, from the good end on."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from hacktree.client.bisect.store import read_bisection
from hacktree.client.remote import Remote, add_remote
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.objectnames import meta_name
from hacktree.common.repository.repository import open_repository
from support.bisectfarm import add_build, bisect, make_farm
from support.enterable import hacktree
from support.packmaking import publish_packs
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


def test_start_decides_and_says_so(farm: Farm, tmp_path: Path) -> None:
    """Both figures, for people and programs, without anything brought; a word of one's own wins."""
    sysroot = farm.tester(tmp_path / "sysroot", deployed=True)
    shown = bisect(sysroot, *START, "--dry-run").stdout
    assert "The old end is brought first: 1.7 MB for it, 1.7 MB in all; " in shown
    for options, first in (((), True), (("--no-old-end-first",), False)):
        done = bisect(sysroot, *START, *options, "--dry-run", "--json")
        told = msgspec.json.decode(done.stdout)["forecast"]
        assert told["old-end"]["brought-first"] is first
        assert told["old-end"]["search-bytes-first"] < told["old-end"]["search-bytes-later"]
        name = "search-bytes-first" if first else "search-bytes-later"
        assert told["bytes"] == told["old-end"][name]
    assert not sysroot.repository.has_meta(farm.commits[0])


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


def test_an_old_end_that_the_farm_has_pruned_is_left_out(farm: Farm, tmp_path: Path) -> None:
    """It was to spare bytes only: the search goes on without it."""
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
