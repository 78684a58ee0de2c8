"""Promise: what a bisection leased stays until it is given back, whoever prunes, and no longer."""

import json
import shlex
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hacktree.common.cli.main import main
from hacktree.common.errors import BusyError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.checkout import LinkPolicy
from hacktree.common.repository.condemned import read_condemned
from hacktree.common.repository.fsck import fsck
from hacktree.common.repository.leases import LeaseUnreadableError, lease_names, read_lease
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.packs import list_edges
from hacktree.common.repository.prune import prune
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.retention import Policy, Rule
from hacktree.server.api import make_api
from hacktree.server.backup import back_up
from hacktree.server.database import Database, open_database
from hacktree.server.grants import parse_grant
from hacktree.server.jobs import Kind, State, list_jobs
from hacktree.server.leasing.leases import (
    LEASE_SECONDS,
    MAX_LEASES_OF_TOKEN,
    LeaseMissingError,
    Range,
    RangeInvalidError,
    TooManyLeasesError,
    end_lease,
    lease_range,
    list_leases,
    renew_lease,
    settle_leases,
)
from hacktree.server.static import make_app
from hacktree.server.token_authenticator import DatabaseAuthenticator
from hacktree.server.tokens import create_token, revoke_token
from hacktree.server.watching import Watch
from support.documents import commands_in
from support.packmaking import publish_packs
from support.pulling import assert_whole, make_repository
from support.qa import START, Clock
from support.servers import hacktree_program
from support.trees import make_commit
from support.trusting import BUILDS

Serve = Callable[[web.Application], Awaitable[TestServer]]
HEADS = Policy(Rule(depth=0))
SESSION = "0123456789abcdef"


@dataclass
class Farm:
    """Twelve builds, and a clock that only tests move."""

    repository: Repository
    database: Database
    builds: list[ObjectId]
    clock: Clock

    def prune(self) -> list[int]:
        """As every night, without grace; the builds that are left."""
        prune(self.repository, HEADS, now=self.clock.now, grace=0)
        assert fsck(self.repository).intact
        return self.left()

    def left(self) -> list[int]:
        here = self.repository.has_meta
        return [number for number, build in enumerate(self.builds) if here(build)]

    def range(self, low: int, high: int, session: str = SESSION) -> Range:
        return Range(session, BUILDS, self.builds[low], self.builds[high])

    def lease(self, low: int, high: int, token: str = "t", session: str = SESSION) -> str:
        wanted = self.range(low, high, session)
        return lease_range(self.repository, self.database, token, wanted, self.clock).id

    def secret(self, *grants: str) -> tuple[str, str]:
        """A token's id and secret."""
        given = [parse_grant(grant) for grant in grants]
        token, secret = create_token(self.database, given, "", None, START)
        return token.id, secret


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    repository = make_repository(tmp_path / "farm")
    builds = [
        make_commit(
            repository,
            {"version": f"{n}".encode(), "same": b"same", f"d/{n}": f"only {n}".encode()},
            branch="builds",
            time=START - 1000 + n,
        )
        for n in range(12)
    ]
    return Farm(repository, open_database(repository), builds, Clock())


# What it keeps


def test_a_range_stays_while_it_is_leased_and_goes_afterwards(farm: Farm) -> None:
    lease = farm.lease(3, 6)
    assert farm.prune() == [3, 4, 5, 6, 11]
    for number in (3, 4, 5, 6):
        assert_whole(farm.repository, farm.builds[number])
    end_lease(farm.repository, farm.database, lease)
    assert farm.prune() == [11]
    assert lease_names(farm.repository) == []


def test_it_ends_by_itself_also_where_no_server_runs(farm: Farm) -> None:
    farm.lease(3, 6)
    farm.clock.now += LEASE_SECONDS - 1
    assert farm.prune() == [3, 4, 5, 6, 11]
    farm.clock.now += 1
    assert farm.prune() == [11]


def test_asking_again_renews_the_same_lease(farm: Farm) -> None:
    lease = farm.lease(3, 6)
    farm.clock.now += LEASE_SECONDS - 1
    assert farm.prune() == [3, 4, 5, 6, 11]
    assert farm.lease(3, 6) == lease
    farm.clock.now += LEASE_SECONDS - 1
    assert farm.prune() == [3, 4, 5, 6, 11]
    assert len(list_leases(farm.database, int(farm.clock.now))) == 1


def test_a_lease_outlives_a_clock_that_was_set_back(farm: Farm) -> None:
    lease = farm.lease(3, 6)
    promised = farm.clock.now + LEASE_SECONDS
    farm.clock.now -= 2 * LEASE_SECONDS
    assert farm.lease(3, 6) == lease
    farm.clock.now -= 1
    renewed = renew_lease(farm.repository, farm.database, "t", lease, farm.clock)
    assert renewed.expires == promised
    farm.clock.now = promised - 1
    assert farm.prune() == [3, 4, 5, 6, 11]


def test_ranges_of_two_sessions_do_not_end_one_another(farm: Farm) -> None:
    first, second = farm.lease(2, 5), farm.lease(4, 8, session="f" * 16)
    assert first != second
    end_lease(farm.repository, farm.database, first)
    assert farm.prune() == [4, 5, 6, 7, 8, 11]


def test_of_a_range_that_was_pruned_in_part_the_rest_is_kept(farm: Farm) -> None:
    """The upper end is still there; the lower one is kept by somebody's lease, behind the gap."""
    farm.lease(2, 3)
    farm.lease(9, 10, session="f" * 16)
    assert farm.prune() == [2, 3, 9, 10, 11]
    lease = lease_range(farm.repository, farm.database, "t", farm.range(3, 11), farm.clock)
    assert lease.builds == tuple(farm.builds[n] for n in (3, 9, 10, 11))
    everything = Policy(Rule(depth=1))
    prune(farm.repository, everything, now=START, grace=0)
    late = lease_range(farm.repository, farm.database, "t", farm.range(0, 11), farm.clock)
    assert late.builds == tuple(farm.builds[n] for n in (9, 10, 11))


def test_packs_within_a_leased_range_stay_in_the_graph(farm: Farm) -> None:
    """Also if they are so old that those from pruned builds go."""
    builds = farm.builds
    edges = publish_packs(farm.repository, [(builds[n], builds[n + 1]) for n in range(11)])
    farm.lease(3, 6)
    farm.prune()
    base = ["--repo", str(farm.repository.path)]
    assert main([*base, "delta", "prune", "--keep-stranded", "0s", "--quiet"]) == 0
    assert set(list_edges(farm.repository)) == set(edges[3:6])


# Races


def test_a_lease_between_what_a_prune_marks_and_deletes_is_honoured(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def read_condemned_and_lease(repository: Repository) -> dict[str, float]:
        # The last thing that a plan reads; the first plan is made under the shared lock.
        if not asked:
            asked.append(farm.lease(3, 6))
        return read_condemned(repository)

    monkeypatch.setattr("hacktree.common.repository.prune.read_condemned", read_condemned_and_lease)
    assert farm.prune() == [3, 4, 5, 6, 11]


def test_nothing_is_promised_while_a_prune_deletes(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hacktree.server.leasing.leases._LOCK_SECONDS", 0.1)
    with farm.repository.lock(LockKind.EXCLUSIVE), pytest.raises(BusyError):
        farm.lease(3, 6)
    assert lease_names(farm.repository) == []
    lease = farm.lease(3, 6)
    with farm.repository.lock(LockKind.EXCLUSIVE), pytest.raises(BusyError):
        renew_lease(farm.repository, farm.database, "t", lease, farm.clock)


def test_what_ends_while_a_prune_is_waited_for_is_over(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = farm.lease(3, 6)
    farm.clock.now += LEASE_SECONDS - 1
    lock = Repository.lock

    def lock_after_a_prune(*args: Any, **keywords: Any) -> Any:
        monkeypatch.undo()
        farm.clock.now += 1
        assert farm.prune() == [11]
        return lock(*args, **keywords)

    monkeypatch.setattr(Repository, "lock", lock_after_a_prune)
    with pytest.raises(LeaseMissingError):
        renew_lease(farm.repository, farm.database, "t", lease, farm.clock)
    farm.clock.now -= 1
    monkeypatch.setattr(Repository, "lock", lock_after_a_prune)
    with pytest.raises(RangeInvalidError):
        farm.lease(3, 6)


def test_wherever_a_prune_is_what_was_promised_is_here(farm: Farm) -> None:
    """A real prune, of all but the head, while builds are leased and given back all the time."""
    program = [hacktree_program(), "--repo", str(farm.repository.path), "prune", "--no-grace"]
    farm.clock.now = 4_000_000_000  # Later than the prune's clock, which is the machine's.
    held: dict[int, str] = {}
    asked = 0
    pruning = subprocess.Popen([*program, "--quiet", "--keep-depth", "0"])
    for number in cycle(range(11)):
        if pruning.poll() is not None:
            break
        if number in held:
            assert number in farm.left()
            end_lease(farm.repository, farm.database, held.pop(number))
        else:
            with suppress(RangeInvalidError):
                held[number] = farm.lease(number, number, session=f"{number:08d}")
                asked += 1
    assert pruning.returncode == 0
    assert asked, "the prune was over before anybody asked"
    for number in held:
        assert_whole(farm.repository, farm.builds[number])
    assert fsck(farm.repository).intact


# Files and rows


def test_files_follow_the_database_after_a_crash_or_a_restore(farm: Farm) -> None:
    lost, damaged = farm.lease(1, 2), farm.lease(4, 5)
    folder = farm.repository.state / "leases"
    (folder / lost).unlink()
    (folder / damaged).write_bytes(b"until 18000")
    (folder / ("0" * 32)).write_text(f"until 9999999999\n{farm.builds[8].hex()}\n")
    with pytest.raises(LeaseUnreadableError):
        prune(farm.repository, HEADS, now=START, grace=0)
    assert farm.left() == list(range(12)), "nothing is deleted while it is unclear what may be"
    Watch(farm.repository, farm.database).look(START)
    assert farm.prune() == [1, 2, 4, 5, 11]


@pytest.mark.parametrize(
    "content",
    [b"", b"until 5", b"until x\n", b"until 5\nabc\n", b"until 5\n" + b"0" * 64, b"\xff\n",
     b"until 5\n" + (b"0" * 64 + b"\n") * 1025],
)  # fmt: skip
def test_a_file_that_is_no_lease_is_damage(farm: Farm, content: bytes) -> None:
    lease = farm.lease(1, 2)
    (farm.repository.state / "leases" / lease).write_bytes(content)
    with pytest.raises(LeaseUnreadableError):
        read_lease(farm.repository, lease)


def test_a_backup_has_the_leases_and_what_they_keep(farm: Farm, tmp_path: Path) -> None:
    lease = farm.lease(3, 4)
    farm.prune()
    back_up(farm.repository, tmp_path / "copy", LinkPolicy.COPY, START)
    copy = open_repository(tmp_path / "copy")
    database = open_database(copy)
    assert [one.id for one in list_leases(database, START)] == [lease]
    prune(copy, HEADS, now=START, grace=0)
    assert [copy.has_meta(farm.builds[n]) for n in (3, 4, 5)] == [True, True, False]
    assert (copy.state / "leases").stat().st_mode & 0o777 == 0o700


def test_leases_of_a_revoked_token_end(farm: Farm) -> None:
    token, _ = farm.secret("lease:builds")
    farm.lease(1, 2, token)
    farm.lease(4, 5, "somebody")
    revoke_token(farm.database, token, START)
    settle_leases(farm.repository, farm.database, START)
    assert farm.prune() == [4, 5, 11]


def test_nobody_keeps_everything(farm: Farm) -> None:
    for number in range(MAX_LEASES_OF_TOKEN):
        farm.lease(1, 2, session=f"{number:08d}")
    with pytest.raises(TooManyLeasesError):
        farm.lease(1, 2, session="f" * 8)
    assert len(lease_names(farm.repository)) == MAX_LEASES_OF_TOKEN
    farm.lease(1, 2, "another")
    farm.lease(1, 2, session=f"{0:08d}")
    farm.clock.now += LEASE_SECONDS
    farm.lease(1, 2, session="f" * 8)
    assert len(lease_names(farm.repository)) == MAX_LEASES_OF_TOKEN + 2, "files go when settled"
    settle_leases(farm.repository, farm.database, int(farm.clock.now))
    assert len(lease_names(farm.repository)) == 1


# Over HTTP


@pytest.fixture
async def url(farm: Farm, aiohttp_server: Serve) -> str:
    authenticator = DatabaseAuthenticator(farm.database)
    api = make_api(farm.repository, authenticator, database=farm.database, clock=farm.clock)
    server = await aiohttp_server(make_app(farm.repository.path, api))
    return str(server.make_url("")).rstrip("/")


async def call(
    url: str, secret: str, method: str, path: str, body: object = None
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {secret}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, f"{url}/api/v1/{path}", json=body) as response,
    ):
        return response.status, await response.json()


def asking(farm: Farm, low: int, high: int, branch: str = "builds") -> dict[str, str]:
    return {
        "session": SESSION,
        "branch": branch,
        "low": farm.builds[low].hex(),
        "high": farm.builds[high].hex(),
    }


async def test_a_range_is_asked_for_renewed_listed_and_given_back(farm: Farm, url: str) -> None:
    token, secret = farm.secret("lease:builds")
    status, lease = await call(url, secret, "POST", "leases", asking(farm, 3, 6))
    assert status == 200
    assert (lease["builds"], lease["seconds"], lease["token"]) == (4, LEASE_SECONDS, token)
    assert (lease["low"], lease["high"]) == (farm.builds[3].hex(), farm.builds[6].hex())
    assert await call(url, secret, "POST", "leases", asking(farm, 3, 6)) == (200, lease)
    farm.clock.now += 1000
    _, listed = await call(url, secret, "GET", "leases")
    assert listed == {"leases": [{**lease, "seconds": LEASE_SECONDS - 1000}]}
    status, renewed = await call(url, secret, "POST", f"leases/{lease['lease']}/renew")
    assert (status, renewed["expires"]) == (200, lease["expires"] + 1000)
    assert farm.prune() == [3, 4, 5, 6, 11]
    assert await call(url, secret, "DELETE", f"leases/{lease['lease']}") == (200, {})
    status, refusal = await call(url, secret, "POST", f"leases/{lease['lease']}/renew")
    assert (status, refusal["error"]["code"]) == (404, "no-such-lease")
    assert farm.prune() == [11]


async def test_a_lease_that_is_over_is_asked_for_again(farm: Farm, url: str) -> None:
    _, secret = farm.secret("lease:**")
    _, lease = await call(url, secret, "POST", "leases", asking(farm, 3, 6))
    farm.clock.now += LEASE_SECONDS
    status, refusal = await call(url, secret, "POST", f"leases/{lease['lease']}/renew")
    assert (status, refusal["error"]["code"]) == (404, "no-such-lease")
    assert (await call(url, secret, "GET", "leases"))[1] == {"leases": []}
    status, again = await call(url, secret, "POST", "leases", asking(farm, 3, 6))
    assert (status, again["lease"]) == (200, lease["lease"])


async def test_only_who_may_leases_and_only_the_owner_or_an_administrator_ends(
    farm: Farm, url: str
) -> None:
    _, owner = farm.secret("lease:builds")
    _, lease = await call(url, owner, "POST", "leases", asking(farm, 3, 6))
    path = f"leases/{lease['lease']}"
    _, other = farm.secret("lease:builds", "push:**", "verdict:**", "promote:**", "admin:fastqa")
    assert (await call(url, other, "GET", "leases"))[1] == {"leases": []}
    for method, where in (("DELETE", path), ("POST", f"{path}/renew")):
        status, refusal = await call(url, other, method, where)
        assert (status, refusal["error"]["code"]) == (404, "no-such-lease")
    _, stranger = farm.secret("admin:**", "push:**")
    status, refusal = await call(url, stranger, "POST", "leases", asking(farm, 3, 6))
    assert (status, refusal["error"]["code"]) == (403, "forbidden")
    status, refusal = await call(url, stranger, "POST", f"{path}/renew")
    assert (status, refusal["error"]["code"]) == (403, "forbidden")
    assert len((await call(url, stranger, "GET", "leases"))[1]["leases"]) == 1
    assert (await call(url, stranger, "DELETE", path))[0] == 200
    assert list_leases(farm.database, START) == []


async def test_a_range_that_is_none_is_refused(farm: Farm, url: str) -> None:
    _, secret = farm.secret("lease:**")
    side = make_commit(farm.repository, {"f": b"side"}, branch="side")
    tree = farm.repository.load_commit(side).root.id
    good = asking(farm, 3, 6)
    for change in (
        {"high": farm.builds[3].hex(), "low": farm.builds[6].hex()},
        {"high": side.hex()},
        {"low": side.hex()},
        {"high": tree.hex()},
        {"high": "0" * 64},
        {"branch": "side"},
    ):
        status, refusal = await call(url, secret, "POST", "leases", {**good, **change})
        assert (status, refusal["error"]["code"]) == (404, "no-such-build"), change
    for change in (
        {"high": "0"},
        {"high": good["high"] + "\n"},
        {"session": "../../x"},
        {"session": SESSION + "\n"},
        {"branch": "../x"},
        {"branch": "builds\n"},
        {"more": "1"},
    ):
        status, refusal = await call(url, secret, "POST", "leases", {**good, **change})
        assert (status, refusal["error"]["code"]) == (400, "malformed"), change
    assert list_leases(farm.database, START) == []


async def test_a_range_is_no_longer_than_one_lease_keeps(
    farm: Farm, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hacktree.server.leasing.leases.MAX_LEASED", 4)
    _, secret = farm.secret("lease:**")
    assert (await call(url, secret, "POST", "leases", asking(farm, 3, 6)))[0] == 200
    status, refusal = await call(url, secret, "POST", "leases", asking(farm, 2, 6))
    assert (status, refusal["error"]["code"]) == (413, "too-large")


# Packs on demand


def test_a_leased_range_gets_the_packs_that_a_bisection_takes(
    farm: Farm, capsys: pytest.CaptureFixture[str]
) -> None:
    """One for each job, which asks for the next: packs of new builds come in between."""
    farm.clock.now = 4_000_000_000  # Later than the command's clock, which is the machine's.
    lease = farm.lease(3, 7)
    assert states_of_jobs(farm) == [State.WAITING]
    trees = [farm.repository.load_commit(build).root.id for build in farm.builds]
    wanted = [(trees[3], trees[5]), (trees[3], trees[4]), (trees[5], trees[6])]
    publish_packs(farm.repository, [(farm.builds[3], farm.builds[4])])
    for pair in (wanted[0], wanted[2]):
        answer = make_pack(farm, lease)
        assert (answer["from"], answer["to"]) == (pair[0].hex(), pair[1].hex())
        assert states_of_jobs(farm) == [State.WAITING]
    assert {(edge.old, edge.new) for edge in list_edges(farm.repository)} == set(wanted)
    again = ["--repo", str(farm.repository.path), "lease", "pack", lease]
    assert main(again) == 0
    assert "every pack is there" in capsys.readouterr().out
    end_lease(farm.repository, farm.database, lease)
    assert states_of_jobs(farm) == []
    assert main(again) == 0
    assert "the lease has ended" in capsys.readouterr().out, "it was under way when that ended"


def make_pack(farm: Farm, lease: str) -> Any:
    """In a process of its own, as the job does: it lowers its own priority."""
    command = [hacktree_program(), "--repo", str(farm.repository.path), "lease", "pack", lease]
    done = subprocess.run([*command, "--json"], check=True, capture_output=True)
    return json.loads(done.stdout)


def states_of_jobs(farm: Farm) -> list[State]:
    return [job.state for job in list_jobs(farm.database) if job.kind is Kind.LEASES]


# The command


def test_a_person_lists_leases_and_ends_them(
    farm: Farm, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--repo", str(farm.repository.path), "lease"]
    assert main([*base, "list"]) == 0
    assert "no leases" in capsys.readouterr().out
    farm.clock.now = 4_000_000_000  # The command's clock is the machine's.
    lease = farm.lease(3, 6)
    assert main([*base, "list"]) == 0
    listed = capsys.readouterr().out
    assert lease in listed
    assert "builds, 4 builds, token t" in listed
    assert main([*base, "list", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert (document["lease"], document["builds"], document["label"]) == (lease, 4, "")
    assert main([*base, "end", lease]) == 0
    assert "prune may take its 4 builds" in capsys.readouterr().out
    assert main([*base, "end", lease]) == 2
    assert "there is no lease" in capsys.readouterr().err
    assert farm.prune() == [11]


def test_the_guide_s_commands_work(farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    commands = commands_in("Leases")
    assert len(commands) == 2
    for command in commands:
        _, *words = shlex.split(command.replace("/srv/hacktree", str(farm.repository.path)))
        assert main(words) == 0, command
    assert "ht_" in capsys.readouterr().out
