"""Asking for a lease, killed at any durable step: nobody was promised anything that is not kept."""

import sys
from pathlib import Path

import pytest

from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.leases import lease_names, read_lease
from hacktree.common.repository.prune import prune
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.retention import Policy, Rule
from hacktree.server.database import open_database
from hacktree.server.leasing.leases import Range, lease_range, list_leases, settle_leases
from support.kill import every_kill, kill_at
from support.pulling import make_repository
from support.trees import make_commit
from support.trusting import BUILDS

NOW = 2_000_000_000
PROGRAM = """
import sys
from pathlib import Path
from hacktree.common.objects.ids import parse_object_id
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.repository import open_repository
from hacktree.server.database import Database, database_path
from hacktree.server.leasing.leases import Range, end_lease, lease_range
repository = open_repository(Path(sys.argv[2]))
low, high = map(parse_object_id, sys.argv[3:5])
database = Database(database_path(repository))
wanted = Range("0" * 16, parse_branch_name("builds"), low, high)
if sys.argv[1] == "ask":
    lease_range(repository, database, "t", wanted, lambda: int(sys.argv[5]))
else:
    end_lease(repository, database, wanted.name_for("t"))
"""


@pytest.fixture
def farm(tmp_path: Path) -> tuple[Repository, list[ObjectId]]:
    repository = make_repository(tmp_path / "farm")
    builds = [
        make_commit(repository, {"f": f"{n}".encode()}, branch="builds", time=NOW - 10 + n)
        for n in range(4)
    ]
    open_database(repository)
    return repository, builds


def command(what: str, repository: Repository, builds: list[ObjectId], now: int) -> list[str]:
    """A process that asks for the first three builds, or gives them back."""
    ends = [builds[0].hex(), builds[2].hex()]
    # -B: no bytecode is written, so every traced rename is the lease's own.
    return [sys.executable, "-B", "-c", PROGRAM, what, str(repository.path), *ends, str(now)]


def require_files_for_rows(repository: Repository) -> None:
    """What the database says is kept has a file that keeps as much."""
    for lease in list_leases(open_database(repository), NOW):
        leased = read_lease(repository, lease.id)
        assert leased is not None
        assert leased.commits == lease.builds
        assert leased.until >= lease.expires


def settled(repository: Repository) -> list[str]:
    """The leases, after what a server does when it starts; their files are the same ones."""
    database = open_database(repository)
    settle_leases(repository, database, NOW)
    require_files_for_rows(repository)
    names = [lease.id for lease in list_leases(database, NOW)]
    assert lease_names(repository) == names
    return names


@pytest.mark.parametrize("syscall", ["rename", "fsync", "fdatasync"])
def test_asking_killed_at_every_durable_step(
    farm: tuple[Repository, list[ObjectId]], syscall: str
) -> None:
    repository, builds = farm
    for step in every_kill(command("ask", repository, builds, NOW), syscall):
        require_files_for_rows(repository)
        assert len(settled(repository)) <= 1, step
    assert len(settled(repository)) == 1, "asked again, it is the same lease"
    prune(repository, Policy(Rule(depth=0)), now=NOW, grace=0)
    assert all(repository.has_meta(build) for build in builds)


def test_renewing_killed_between_file_and_row(farm: tuple[Repository, list[ObjectId]]) -> None:
    """It is never kept for a shorter time than was promised."""
    repository, builds = farm
    wanted = Range("0" * 16, BUILDS, builds[0], builds[2])
    lease_range(repository, open_database(repository), "t", wanted, lambda: NOW)
    for syscall in ("rename", "fdatasync"):
        assert kill_at(command("ask", repository, builds, NOW + 5), syscall, 1)
        require_files_for_rows(repository)


def test_giving_back_killed_at_every_durable_step(
    farm: tuple[Repository, list[ObjectId]],
) -> None:
    """Whichever is done first, prune has the builds in the end."""
    repository, builds = farm
    wanted = Range("0" * 16, BUILDS, builds[0], builds[2])
    for syscall in ("unlink", "fdatasync"):
        lease_range(repository, open_database(repository), "t", wanted, lambda: NOW)
        for step in every_kill(command("end", repository, builds, NOW), syscall):
            left = settled(repository)
            assert len(left) == 1 or step > 1, "the first one is before the commit"
        assert settled(repository) == []
    prune(repository, Policy(Rule(depth=0)), now=NOW, grace=0)
    assert [repository.has_meta(build) for build in builds] == [False, False, False, True]
