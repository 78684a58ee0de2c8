"""Promise: whatever job is killed wherever, no reader ever finds a name whose content is missing.

And what was cut off is finished by the next who does jobs, who shows that it is.
"""

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from hacktree.common.cli.main import main
from hacktree.common.repository.history_rebuilding import history_fault
from hacktree.common.repository.packs import list_edges
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.revision import resolve
from hacktree.server.database import Database, open_database
from hacktree.server.jobs import FARM, Kind, State, enqueue, take_next
from hacktree.server.leasing.leases import Range, lease_range
from hacktree.server.watching import Watch
from support.kill import kill_at
from support.pulling import make_repository
from support.reading import always_read
from support.servers import hacktree_program
from support.trees import Spec
from support.trusting import BUILDS, FASTQA, SignedFarm

SEED = 18
STEPS = {
    # What each job makes durable, in order, is given its name by rename.
    Kind.HISTORY: ("history", "builds"),
    Kind.TRUST: ("trust", "renew"),
    Kind.DELTAS: ("delta", "generate", "builds", "--jobs", "1", "--quiet"),
    Kind.DASHBOARD: ("dashboard", "--quiet"),
}
SUBJECTS = {Kind.HISTORY: "builds", Kind.DELTAS: "builds"}


class Publishing:
    """A seeded sequence of publications: each is signed, and leaves work for every job."""

    def __init__(self, path: Path) -> None:
        self.farm = SignedFarm(make_repository(path))
        self._random = random.Random(SEED)
        self._tree: dict[str | bytes, Spec] = {}
        self.publish()

    def publish(self) -> None:
        """The next build, of one branch or both; signatures of five days ago."""
        self._tree[f"f{self._random.randrange(3)}"] = self._random.randbytes(3000)
        with self.farm.at(-timedelta(days=5)):
            self.farm.commit(self._tree, BUILDS)
            if self._random.random() < 0.5:
                self.farm.commit(self._tree, FASTQA)

    def lose_history(self) -> None:
        """A page that a disk damaged: what the job is for. No reader is at it meanwhile."""
        tail = self.repository.path / "branches/builds/history/tail"
        tail.write_bytes(tail.read_bytes()[:-3])

    @property
    def repository(self) -> Repository:
        return self.farm.repository

    def lease(self) -> str:
        """The last three builds are leased, before there is a pack between them."""
        repository = self.repository
        low, high = resolve(repository, "builds~2"), resolve(repository, "builds")
        wanted = Range("0" * 16, BUILDS, low, high)
        return lease_range(repository, open_database(repository), "t", wanted, time.time).id


def kills(repository: Repository, kind: Kind) -> Iterator[int]:
    """Kill the job's process at its first, second, … durable step, until it makes no more.

    Each begins with what the last one left, as a job that is tried again does.
    """
    command = [hacktree_program(), "--repo", str(repository.path), *STEPS[kind]]
    step = 1
    while kill_at(command, "rename", step):
        yield step
        step += 1
    assert step > 1, f"the job {kind} makes nothing durable: nothing was tested"


def test_a_reader_never_finds_a_name_without_its_content(tmp_path: Path) -> None:
    """A damaged page is mended first; then everything is read while the other jobs are killed."""
    publishing = Publishing(tmp_path / "farm")
    repository = publishing.repository
    database = open_database(repository)
    publishing.lose_history()
    Watch(repository, database).look(0)
    take(database, Kind.HISTORY)
    assert list(kills(repository, Kind.HISTORY))
    assert history_fault(repository, BUILDS) == ""
    with always_read(repository) as reader:
        for _ in range(2):
            publishing.publish()
        kill_between_pack_and_graph(repository, publishing.lease())
        reader.check()
        for kind in (Kind.TRUST, Kind.DELTAS, Kind.DASHBOARD):
            if kind is not Kind.DELTAS:
                publishing.publish()
            enqueue(database, kind, SUBJECTS.get(kind, FARM), 0)
            take(database, kind)
            for _ in kills(repository, kind):
                reader.check()
        finish(repository)
        reader.check()
    assert reader.rounds > 3


def kill_between_pack_and_graph(repository: Repository, lease: str) -> None:
    """At the last step of a leased range's job: the pack has its name, the graph lacks it.

    The pack is made as those of DELTAS are, which is killed at each step; `finish` does this one.
    """
    command = [hacktree_program(), "--repo", str(repository.path), "--quiet", "lease", "pack"]
    assert kill_at([*command, lease], "rename", 2)
    named = {edge.pack.hex() for edge in list_edges(repository)}
    assert set(os.listdir(repository.path / "packs")) - named


def take(database: Database, kind: Kind) -> None:
    """The job runs, says its row; then its process and the server are killed together."""
    assert take_next(database, (kind,), 0) is not None


def finish(repository: Repository) -> None:
    """The restart: what ran waits again and is done, which `hacktree jobs` shows."""
    assert main(["--repo", str(repository.path), "--quiet", "jobs", "run"]) == 0
    listed = subprocess.run(
        [hacktree_program(), "--repo", str(repository.path), "jobs", "list", "--json"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    jobs = json.loads(listed)
    assert {job["state"] for job in jobs} == {State.DONE}
    assert {job["kind"] for job in jobs} == set(Kind)
