"""Promise: a bisection's builds stay on the server; without a lease it goes on and says so."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hacktree.client.bisect.core.model import Candidate, Descended, Options, Session
from hacktree.client.bisect.farm.lease import (
    Leased,
    describe_lease,
    give_back,
    keep_builds,
    known_secret,
)
from hacktree.client.remote import Remote, add_remote
from hacktree.common.cli.main import main
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.push.refusals import Refusal, RefusalCode, encode_refusal
from hacktree.common.repository.prune import prune
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.retention import Policy, Rule
from hacktree.server.api import make_api
from hacktree.server.database import Database, open_database
from hacktree.server.grants import parse_grant
from hacktree.server.leasing.leases import LEASE_SECONDS, list_leases
from hacktree.server.static import make_app
from hacktree.server.token_authenticator import DatabaseAuthenticator
from hacktree.server.tokens import create_token
from support.pulling import make_repository, remote_at
from support.qa import START, Clock
from support.sysroots import make_sysroot
from support.trees import make_commit

Serve = Callable[[web.Application], Awaitable[TestServer]]
DAY = 86_400
HEADS = Policy(Rule(depth=0))


@dataclass
class Farm:
    """Eight builds, every second one of them promoted, behind the real API."""

    repository: Repository
    database: Database
    builds: list[Candidate]
    promoted: list[Candidate]
    clock: Clock
    remote: Remote

    def secret(self, *grants: str) -> str:
        given = [parse_grant(grant) for grant in grants]
        return create_token(self.database, given, "", None, START)[1]

    def left(self) -> list[int]:
        """The builds that a prune leaves."""
        prune(self.repository, HEADS, now=self.clock.now, grace=0)
        here = self.repository.has_meta
        return [b.sequence for b in self.builds if here(ObjectId(bytes.fromhex(b.commit)))]


@pytest.fixture
async def farm(tmp_path: Path, aiohttp_server: Serve) -> Farm:
    repository = make_repository(tmp_path / "farm")
    builds, promoted = [], []
    for n in range(1, 9):
        build = make_commit(repository, {"f": f"{n}".encode()}, branch="builds", time=START)
        builds.append(Candidate(build.hex(), "builds", n, START))
        if n % 2 == 0:
            step = make_commit(repository, {"f": f"{n}".encode()}, branch="fastqa", time=START)
            promoted.append(Candidate(step.hex(), "fastqa", n // 2, START, "", build.hex()))
    database, clock = open_database(repository), Clock()
    authenticator = DatabaseAuthenticator(database)
    api = make_api(repository, authenticator, database=database, clock=clock)
    server = await aiohttp_server(make_app(repository.path, api))
    remote = remote_at(str(server.make_url("")).rstrip("/"))
    return Farm(repository, database, builds, promoted, clock, remote)


def session(line: list[Candidate], *events: Descended, number: int = 1) -> Session:
    return Session(f"{number:032x}", "farm", START, Options(), tuple(line), events)


async def keep(farm: Farm, secret: str, one: Session) -> Leased:
    return await asyncio.to_thread(keep_builds, farm.remote, secret, one)


async def test_builds_are_kept_while_it_asks_and_given_back(farm: Farm) -> None:
    secret = farm.secret("lease:**")
    one = session(farm.builds[1:5])
    leased = await keep(farm, secret, one)
    assert leased == Leased(4, 4, START + LEASE_SECONDS)
    farm.clock.now += LEASE_SECONDS - 1
    assert (await keep(farm, secret, one)).until == farm.clock.now + LEASE_SECONDS
    farm.clock.now += LEASE_SECONDS - 1
    assert farm.left() == [2, 3, 4, 5, 8]
    assert await asyncio.to_thread(give_back, farm.remote, secret, one) == ""
    assert farm.left() == [8]


async def test_a_clock_that_is_set_back_takes_nothing_from_what_was_promised(farm: Farm) -> None:
    """Nor when it is set right again before the next step; then it lasts as long as any."""
    secret = farm.secret("lease:**")
    one = session(farm.builds[1:5])
    for behind in (30, 29):
        await keep(farm, secret, one)
        farm.clock.now = START - behind * DAY
        assert await keep(farm, secret, one) == Leased(4, 4, START + LEASE_SECONDS)
    farm.clock.now = START + LEASE_SECONDS - 1
    assert farm.left() == [2, 3, 4, 5, 8]
    assert (await keep(farm, secret, one)).until == farm.clock.now + LEASE_SECONDS


async def test_a_clock_that_was_ahead_keeps_no_builds_for_longer(farm: Farm) -> None:
    secret = farm.secret("lease:**")
    one = session(farm.builds[1:5])
    await keep(farm, secret, one)
    farm.clock.now += 6 * DAY
    assert (await keep(farm, secret, one)).until == START + 13 * DAY
    farm.clock.now = START + 60
    assert (await keep(farm, secret, one)).until == START + 60 + LEASE_SECONDS


async def test_a_url_with_a_password_leases_too(farm: Farm) -> None:
    """The token goes in its place: a request has one Authorization."""
    secret = farm.secret("lease:**")
    remote = remote_at(farm.remote.url.replace("//", "//tester:password@"))
    one = session(farm.builds[1:5])
    leased = await asyncio.to_thread(keep_builds, remote, secret, one)
    assert leased == Leased(4, 4, START + LEASE_SECONDS)
    assert await asyncio.to_thread(give_back, remote, secret, one) == ""
    assert list_leases(farm.database, START) == []


async def test_each_line_of_a_descent_is_kept_and_other_sessions_stay(farm: Farm) -> None:
    secret = farm.secret("lease:**")
    fine = Descended(tuple(farm.builds[3:6]))
    one = session(farm.promoted, fine)
    leased = await keep(farm, secret, one)
    assert (leased.wanted, leased.kept, leased.problem) == (7, 7, "")
    other = session(farm.builds[:2], number=2)
    await keep(farm, secret, other)
    assert farm.left() == [1, 2, 4, 5, 6, 8]
    assert await asyncio.to_thread(give_back, farm.remote, secret, one) == ""
    assert farm.left() == [1, 2, 8]
    assert await asyncio.to_thread(give_back, farm.remote, secret, one) == "", "nothing is left"


async def test_what_was_pruned_before_is_told(farm: Farm) -> None:
    secret = farm.secret("lease:builds")
    prune(farm.repository, Policy(Rule(depth=4)), now=START, grace=0)
    leased = await keep(farm, secret, session(farm.builds))
    assert (leased.wanted, leased.kept) == (8, 5)
    assert describe_lease(leased).endswith(": the others were pruned before.")


async def test_a_server_that_refuses_is_told_and_stops_nothing(farm: Farm) -> None:
    one = session(farm.builds)
    for secret, why in (
        ("ht_00000000_" + "0" * 43, "refuses a lease: the token is not valid"),
        (farm.secret("push:builds"), "may not lease to builds"),
        ("", "no token for farm is known"),
    ):
        leased = await keep(farm, secret, one)
        assert (leased.kept, leased.until) == (0, 0)
        assert why in leased.problem
        assert describe_lease(leased).startswith("The server may prune builds meanwhile: ")
    assert list_leases(farm.database, START) == []
    assert "not valid" in await asyncio.to_thread(give_back, farm.remote, "ht_x", one)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"lease": "x"}', b"{" * 2_000_000, b"\xff"])
@pytest.mark.parametrize("status", [200, 500])
async def test_a_server_that_answers_nonsense_is_told(
    farm: Farm, aiohttp_server: Serve, body: bytes, status: int
) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    server = await aiohttp_server(app)
    remote = remote_at(str(server.make_url("")).rstrip("/"))
    one = session(farm.builds)
    leased = await asyncio.to_thread(keep_builds, remote, "secret", one)
    assert leased.kept == 0
    assert leased.problem
    assert await asyncio.to_thread(give_back, remote, "secret", one)


async def test_a_refusal_writes_no_lines_of_its_own(farm: Farm, aiohttp_server: Serve) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        refusal = Refusal(RefusalCode.FORBIDDEN, "no\nThe server keeps all 8 builds")
        return web.Response(body=encode_refusal(refusal), status=403)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    server = await aiohttp_server(app)
    remote = remote_at(str(server.make_url("")).rstrip("/"))
    leased = await asyncio.to_thread(keep_builds, remote, "secret", session(farm.builds))
    assert describe_lease(leased).endswith("refuses a lease: no\\nThe server keeps all 8 builds.")


async def test_a_server_that_is_not_there_or_silent_is_told(
    farm: Farm, aiohttp_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = session(farm.builds)
    gone = remote_at("http://127.0.0.1:1")
    assert "can't be reached" in (await asyncio.to_thread(keep_builds, gone, "x", one)).problem
    assert "can't be reached" in await asyncio.to_thread(give_back, gone, "x", one)
    never = asyncio.Event()

    async def wait(_request: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", wait)
    server = await aiohttp_server(app)
    monkeypatch.setattr("hacktree.client.bisect.farm.lease._SECONDS", 0.1)
    silent = remote_at(str(server.make_url("")).rstrip("/"))
    assert "within 0.1 s" in (await asyncio.to_thread(keep_builds, silent, "x", one)).problem
    never.set()


def test_a_directory_leases_nothing() -> None:
    line = [Candidate(f"{n:064x}", "builds", n, 0) for n in (1, 2)]
    near = Remote("farm", "file:///srv/tree", "unsigned")
    assert keep_builds(near, "x", session(line)) == Leased(
        2, problem="file:///srv/tree is not a server"
    )
    assert give_back(near, "x", session(line)) == ""


async def test_a_line_longer_than_a_lease_needs_several(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hacktree.client.bisect.farm.lease.MAX_LEASED", 3)
    leased = await keep(farm, farm.secret("lease:builds"), session(farm.builds))
    assert (leased.wanted, leased.kept) == (8, 8)
    assert [len(one.builds) for one in list_leases(farm.database, START)].count(3) == 2


def test_the_token_is_in_the_remote_s_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text("ht_secret\n")
    (tmp_path / "sysroot").mkdir()
    base = ["--sysroot", str(tmp_path / "sysroot"), "remote"]
    url = "http://127.0.0.1:1"
    words = ["add", "farm", url, "--unsigned", "--token-file", str(path)]
    assert main([*base, *words]) == 0
    assert main([*base, "show", "farm"]) == 0
    assert f"token-file: {path}" in capsys.readouterr().out
    remote = Remote("farm", url, "unsigned", token_file=str(path))
    assert known_secret(remote) == "ht_secret"
    monkeypatch.setenv("HACKTREE_TOKEN", "ht_of_another_farm")
    assert known_secret(Remote("farm", url, "unsigned")) == ""
    path.write_text("not a\ntoken")
    with pytest.raises(UserError, match="holds no token"):
        known_secret(remote)
    path.unlink()
    with pytest.raises(UserError, match="can't be read"):
        known_secret(remote)


@pytest.mark.parametrize(
    ("leased", "text"),
    [
        (Leased(8, 8, START), "The server keeps all 8 builds until 2027-01-15 08:00 UTC."),
        (
            Leased(8, 7, START, "why"),
            "The server keeps 7 of 8 builds until 2027-01-15 08:00 UTC: why.",
        ),
        (Leased(8, problem="why"), "The server may prune builds meanwhile: why."),
    ],
)
def test_what_a_tester_reads(leased: Leased, text: str) -> None:
    assert describe_lease(leased) == text


async def test_a_whole_bisection_leases_and_gives_back(
    farm: Farm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its command; in between the farm prunes all but its heads."""
    sysroot = make_sysroot(tmp_path / "tester")
    (tmp_path / "token").write_text(farm.secret("lease:**"))
    remote = Remote("farm", farm.remote.url, "unsigned", token_file=str(tmp_path / "token"))
    add_remote(sysroot.repository, remote)
    base = ["--sysroot", str(sysroot.path), "bisect"]

    async def call(*words: str) -> str:
        assert await asyncio.to_thread(main, [*base, *words]) == 0
        return capsys.readouterr().out

    ends = ("--good", "~6", "--bad", "~1", "--no-deploy", "--no-prefetch", "--verify", "never")
    assert "The server keeps all 6 builds until" in await call("start", "builds", *ends)
    assert farm.left() == [2, 3, 4, 5, 6, 7, 8]
    farm.clock.now += LEASE_SECONDS - 1
    assert "The server" not in await call("good")
    farm.clock.now += LEASE_SECONDS - 1
    assert farm.left() == [2, 3, 4, 5, 6, 7, 8], "the step renewed it"
    assert "The server" not in await call("reset")
    assert farm.left() == [8]


async def test_a_colleague_who_ends_an_imported_session_ends_no_lease_but_his(
    farm: Farm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Testers share a token, or one of them administers the branch."""
    (tmp_path / "token").write_text(farm.secret("lease:**"))
    remote = Remote("farm", farm.remote.url, "unsigned", token_file=str(tmp_path / "token"))
    file = str(tmp_path / "session.json")

    async def call(tester: str, *words: str) -> str:
        base = ["--sysroot", str(tmp_path / tester), "bisect"]
        assert await asyncio.to_thread(main, [*base, *words]) == 0
        return capsys.readouterr().out

    for tester in ("one", "other"):
        add_remote(make_sysroot(tmp_path / tester).repository, remote)
    ends = ("--good", "~6", "--bad", "~1", "--no-deploy", "--no-prefetch", "--verify", "never")
    await call("one", "start", "builds", *ends)
    await call("one", "export", file)
    assert "The server keeps all 6 builds until" in await call("other", "import", file)
    assert len(list_leases(farm.database, START)) == 2
    await call("other", "reset")
    assert farm.left() == [2, 3, 4, 5, 6, 7, 8]
    await call("one", "reset")
    assert farm.left() == [8]


async def test_a_bisection_without_a_token_says_so_once(
    farm: Farm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sysroot = make_sysroot(tmp_path / "tester")
    add_remote(sysroot.repository, farm.remote)
    base = ["--sysroot", str(sysroot.path), "bisect"]
    ends = ("--good", "~6", "--no-deploy", "--no-prefetch", "--verify", "never")
    for words in (("start", "builds", *ends), ("bad",), ("reset",)):
        assert await asyncio.to_thread(main, [*base, *words]) == 0
        told = "may prune builds meanwhile: no token for farm is known" in capsys.readouterr().out
        assert told == (words[0] == "start")
