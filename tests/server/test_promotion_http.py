"""Promise: a runner on another machine needs a token for its suite's verdicts, and nothing else."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hacktree.common.cli.main import main
from hacktree.common.errors import PeerError
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.refs import read_ref
from hacktree.server.api import make_api
from hacktree.server.grants import parse_grant
from hacktree.server.promotion.desk import LEASE_SECONDS, Assignment, Idle, LeaseLostError, Report
from hacktree.server.promotion.farm_client import (
    FarmClient,
    FarmRefusedError,
    FarmUnreachableError,
)
from hacktree.server.promotion.logs import MAX_LOG, log_path
from hacktree.server.promotion.remote_desk import RemoteDesk
from hacktree.server.promotion.running import Runner, judge_next
from hacktree.server.promotion.verdicts import Finding, Outcome, Verdict
from hacktree.server.static import make_app
from hacktree.server.token_authenticator import DatabaseAuthenticator
from hacktree.server.tokens import create_token, revoke_token
from support.pulling import make_repository, pull_from
from support.qa import FAIL, FASTQA, PASS, START, QaFarm
from support.trusting import BUILDS, SignedFarm

Serve = Callable[[web.Application], Awaitable[TestServer]]


@pytest.fixture
def qa(tmp_path: Path) -> QaFarm:
    return QaFarm(make_repository(tmp_path / "farm"), "cat $HACKTREE_ROOT/etc/version; exit 7")


def secret_for(qa: QaFarm, *grants: str) -> tuple[str, str]:
    """A token's id and secret."""
    given = [parse_grant(grant) for grant in grants]
    token, secret = create_token(qa.database, given, "", None, START)
    return token.id, secret


@pytest.fixture
async def url(qa: QaFarm, aiohttp_server: Serve) -> str:
    authenticator = DatabaseAuthenticator(qa.database)
    api = make_api(qa.repository, authenticator, database=qa.database, clock=qa.clock)
    server = await aiohttp_server(make_app(qa.repository.path, api))
    return str(server.make_url("")).rstrip("/")


def desk(qa: QaFarm, url: str, *grants: str) -> RemoteDesk:
    waits: list[float] = []
    secret = secret_for(qa, *(grants or ("verdict:fastqa",)))[1]
    return RemoteDesk(FarmClient(url, secret, sleep=waits.append))


async def test_a_build_is_claimed_renewed_and_judged(qa: QaFarm, url: str) -> None:
    build = qa.build()
    token, secret = secret_for(qa, "verdict:fastqa")
    remote = RemoteDesk(FarmClient(url, secret))
    claimed = await asyncio.to_thread(remote.claim, FASTQA, "lab-1")
    assert isinstance(claimed, Assignment)
    assert (claimed.build, claimed.suite, claimed.seconds) == (build, qa.suite(), LEASE_SECONDS)
    qa.clock.now += LEASE_SECONDS - 1
    await asyncio.to_thread(remote.renew, claimed.lease)
    qa.clock.now += LEASE_SECONDS - 1
    idle = await asyncio.to_thread(remote.claim, FASTQA, "lab-2")
    assert isinstance(idle, Idle)
    verdict = await asyncio.to_thread(remote.report, claimed.lease, FAIL)
    assert (verdict.build, verdict.outcome, verdict.token) == (build, Outcome.FAIL, token)
    assert log_path(qa.repository, verdict.log).read_bytes() == FAIL.log
    assert await asyncio.to_thread(remote.report, claimed.lease, FAIL) == verdict


async def test_a_lost_lease_is_told(qa: QaFarm, url: str) -> None:
    qa.build()
    remote = desk(qa, url)
    claimed = await asyncio.to_thread(remote.claim, FASTQA, "lab-1")
    assert isinstance(claimed, Assignment)
    qa.clock.now += LEASE_SECONDS
    assert isinstance(await asyncio.to_thread(desk(qa, url).claim, FASTQA, "lab-2"), Assignment)
    with pytest.raises(LeaseLostError):
        await asyncio.to_thread(remote.renew, claimed.lease)
    with pytest.raises(LeaseLostError):
        await asyncio.to_thread(remote.report, claimed.lease, PASS)


async def test_a_build_is_given_up(qa: QaFarm, url: str) -> None:
    qa.build()
    remote = desk(qa, url)
    claimed = await asyncio.to_thread(remote.claim, FASTQA, "lab-1")
    assert isinstance(claimed, Assignment)
    await asyncio.to_thread(desk(qa, url).give_up, claimed.lease)
    assert isinstance(await asyncio.to_thread(remote.claim, FASTQA, "lab-1"), Idle)
    await asyncio.to_thread(remote.give_up, claimed.lease)
    assert isinstance(await asyncio.to_thread(remote.claim, FASTQA, "lab-1"), Assignment)


@pytest.mark.parametrize("grant", ["verdict:dailyqa", "push:fastqa", "promote:fastqa", "admin:**"])
async def test_other_grants_judge_nothing(qa: QaFarm, url: str, grant: str) -> None:
    qa.build()
    with pytest.raises(FarmRefusedError, match="may not verdict"):
        await asyncio.to_thread(desk(qa, url, grant).claim, FASTQA, "lab-1")


async def test_a_lease_needs_the_token_that_claimed_it(qa: QaFarm, url: str) -> None:
    qa.build()
    claimed = await asyncio.to_thread(desk(qa, url).claim, FASTQA, "lab-1")
    assert isinstance(claimed, Assignment)
    with pytest.raises(LeaseLostError):
        await asyncio.to_thread(desk(qa, url).report, claimed.lease, PASS)


async def test_bad_tokens_and_suites_are_refused(qa: QaFarm, url: str) -> None:
    with pytest.raises(FarmRefusedError, match="not valid"):
        await asyncio.to_thread(RemoteDesk(FarmClient(url, "ht_00000000_x")).claim, FASTQA, "lab-1")
    token, secret = secret_for(qa, "verdict:fastqa")
    revoke_token(qa.database, token, START)
    with pytest.raises(FarmRefusedError, match="not valid"):
        await asyncio.to_thread(RemoteDesk(FarmClient(url, secret)).claim, FASTQA, "lab-1")
    with pytest.raises(FarmRefusedError, match="no suite 'slowqa'"):
        await asyncio.to_thread(desk(qa, url, "verdict:**").claim, "slowqa", "lab-1")


async def ask(url: str, method: str, path: str, secret: str, body: bytes = b"") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {secret}"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{url}/api/v1/{path}", data=body, headers=headers) as answer,
    ):
        return answer.status, json.loads(await answer.read())


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'{"suite": "fastqa"}', b'{"suite": "fastqa", "holder": ""}',
        b'{"suite": "../x", "holder": "a"}', b'{"suite": "fastqa", "holder": "a", "more": 1}',
        b'{"suite": "fastqa", "holder": "a\\nb"}', b"\xff",
    ],
)  # fmt: skip
async def test_malformed_claims_are_refused(qa: QaFarm, url: str, body: bytes) -> None:
    qa.build()
    _, secret = secret_for(qa, "verdict:**")
    status, answer = await ask(url, "POST", "qa/claim", secret, body)
    assert status == 400
    assert answer["error"]["code"] == "malformed"


async def test_malformed_verdicts_are_refused_and_the_lease_stays(qa: QaFarm, url: str) -> None:
    qa.build()
    _, secret = secret_for(qa, "verdict:fastqa")
    remote = RemoteDesk(FarmClient(url, secret))
    claimed = await asyncio.to_thread(remote.claim, FASTQA, "lab-1")
    assert isinstance(claimed, Assignment)
    good = {"outcome": "fail", "reason": "why", "duration": 1, "machine": "m"}
    for change in (
        {"outcome": "splendid"}, {"reason": ""}, {"reason": "two\nlines"}, {"duration": -1},
        {"machine": "x" * 201}, {"log": "not base64!"},
    ):  # fmt: skip
        body = json.dumps({**good, **change}).encode()
        status, answer = await ask(url, "POST", f"qa/leases/{claimed.lease}/verdict", secret, body)
        assert (status, answer["error"]["code"]) == (400, "malformed"), change
    full = Report(Finding(Outcome.PASS), 1.0, "lab-1", b"\xff" * MAX_LOG)
    verdict = await asyncio.to_thread(remote.report, claimed.lease, full)
    assert verdict.outcome is Outcome.PASS


async def test_whoever_keeps_failing_has_to_wait(qa: QaFarm, url: str) -> None:
    for _ in range(20):
        status, answer = await ask(url, "GET", "qa/status/fastqa", "nonsense")
        if status == 429:
            break
    assert answer["error"]["code"] == "too-often"


async def test_status_answers_anybody_with_a_token(qa: QaFarm, url: str) -> None:
    qa.build()
    verdict = qa.judge(FAIL)
    _, secret = secret_for(qa, "push:elsewhere")
    status, answer = await ask(url, "GET", "qa/status/fastqa", secret)
    assert status == 200
    assert answer["cause"] == "failed"
    assert f"verdict {verdict.number}" in answer["reason"]
    assert (await ask(url, "GET", "qa/status/nowhere", secret))[0] == 404
    assert (await ask(url, "GET", "qa/status/fastqa", "nonsense"))[0] == 401


async def post(url: str, path: str, secret: str, message: dict[str, str]) -> tuple[int, str]:
    """The status, and the code of a refusal."""
    status, answer = await ask(url, "POST", path, secret, json.dumps(message).encode())
    return status, answer.get("error", {}).get("code", "")


async def test_a_person_elsewhere_holds_releases_and_promotes(qa: QaFarm, url: str) -> None:
    build = qa.build()
    token, secret = secret_for(qa, "promote:fastqa")
    why = "demo on Monday"
    assert await post(url, "qa/hold", secret, {"subject": "fastqa", "reason": why}) == (200, "")
    wanted = {"branch": "fastqa", "commit": build.hex(), "reason": why}
    assert await post(url, "qa/promote", secret, wanted) == (409, "not-promotable")
    assert await post(url, "qa/release", secret, {"subject": "fastqa", "reason": why}) == (200, "")
    assert await post(url, "qa/promote", secret, wanted) == (200, "")
    head = read_ref(qa.repository, FASTQA)
    assert head is not None
    metadata = qa.repository.load_commit(head).metadata
    assert metadata["promoted-from"] == build.hex()
    assert (metadata["promotion-reason"], metadata["promoted-by"]) == (why, f"token {token}")


async def test_steering_is_refused_with_its_reason(qa: QaFarm, url: str) -> None:
    build = qa.build().hex()
    _, secret = secret_for(qa, "promote:fastqa")
    _, all_of_it = secret_for(qa, "promote:**")
    _, runner = secret_for(qa, "verdict:**")
    fastqa = {"subject": "fastqa", "reason": "x"}
    assert await post(url, "qa/hold", runner, fastqa) == (403, "forbidden")
    promotion = {"branch": "fastqa", "commit": build, "reason": "x"}
    assert await post(url, "qa/promote", runner, promotion) == (403, "forbidden")
    assert await post(url, "qa/release", secret, fastqa) == (404, "not-held")
    assert await post(url, "qa/hold", secret, {**fastqa, "reason": ""}) == (400, "malformed")
    unknown = {**fastqa, "subject": "0123456789abcdef"}
    assert await post(url, "qa/hold", secret, unknown) == (404, "no-such-build")
    # It would stop dailyqa as well.
    held = {"subject": build, "reason": "x"}
    assert await post(url, "qa/hold", secret, held) == (403, "forbidden")
    assert await post(url, "qa/hold", all_of_it, held) == (200, "")


async def test_a_signed_farm_has_no_keys_of_others(qa: QaFarm, url: str) -> None:
    signed = SignedFarm(qa.repository)
    build = qa.build()
    signed.sign(build, BUILDS)
    _, secret = secret_for(qa, "promote:fastqa")
    promotion = {"branch": "fastqa", "commit": build.hex(), "reason": "x"}
    assert await post(url, "qa/promote", secret, promotion) == (409, "not-promotable")
    assert read_ref(qa.repository, FASTQA) is None


async def test_an_unreachable_farm_is_said_so_and_a_verdict_is_sent_again(qa: QaFarm) -> None:
    waits: list[float] = []
    remote = RemoteDesk(FarmClient("http://127.0.0.1:1", "secret", sleep=waits.append))
    with pytest.raises(FarmUnreachableError):
        await asyncio.to_thread(remote.renew, "0" * 32)
    assert waits == []
    with pytest.raises(PeerError):
        await asyncio.to_thread(remote.report, "0" * 32, PASS)
    assert waits == [1, 2, 4, 8, 16]


async def test_a_refusal_that_is_cut_off_counts_as_no_answer(qa: QaFarm) -> None:
    """A signer that watches asks again then; it does not end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n99\r\n{")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        farm = FarmClient(f"http://127.0.0.1:{port}", "secret")
        with pytest.raises(FarmUnreachableError, match="can't be reached"):
            await asyncio.to_thread(farm.ask, "GET", "qa/facts/fastqa")


async def test_the_token_follows_no_redirect(qa: QaFarm, aiohttp_server: Serve) -> None:
    asked = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPFound("/stolen")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", elsewhere)
    server = await aiohttp_server(app)
    remote = RemoteDesk(FarmClient(str(server.make_url("")), "secret"))
    with pytest.raises(FarmUnreachableError):
        await asyncio.to_thread(remote.claim, FASTQA, "lab-1")
    assert asked == ["/api/v1/qa/claim"]


# The farm answers in this process, so the runner, which has one of its own, forks beside threads.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
async def test_a_runner_elsewhere_tests_what_it_pulled(
    qa: QaFarm, url: str, tmp_path: Path
) -> None:
    """Its repository is its own; the farm learns verdict and log."""
    build = qa.build("seven")
    mine = make_repository(tmp_path / "runner", Mode.BARE_USER)
    await pull_from(mine, url, f"builds@{build.hex()}")
    runner = Runner(desk(qa, url), mine, lambda suite, build: None, "lab-7")
    verdict = await asyncio.to_thread(judge_next, runner, FASTQA, lambda claimed: None)
    assert isinstance(verdict, Verdict)
    assert (verdict.build, verdict.machine) == (build, "lab-7")
    assert verdict.finding.reason == "exit status 7"
    assert log_path(qa.repository, verdict.log).read_bytes() == b"seven"


@pytest.mark.parametrize("answer", [{}, {"head": 5, "promoted-from": ""}, []])
async def test_an_answer_without_sense_is_the_farms_failure(
    aiohttp_server: Serve, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    async def promoted(_: web.Request) -> web.Response:
        return web.json_response(answer)

    app = web.Application()
    app.router.add_post("/api/v1/qa/promote", promoted)
    url = str((await aiohttp_server(app)).make_url(""))
    monkeypatch.setenv("HACKTREE_TOKEN", "secret")
    words = ["promote", "fastqa", "builds~0", "--reason", "x", "--server", url]
    assert await asyncio.to_thread(main, words) == 4
