"""The HTTP side of what people decide: promote, hold, release. docs/format.md, "API"."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from aiohttp import web

from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.revision import resolve
from hacktree.server.database import Database
from hacktree.server.grants import Action
from hacktree.server.openapi import json_of, operation
from hacktree.server.promotion.accepting import (
    SignedPromotion,
    accept_promotion,
    facts_of,
)
from hacktree.server.promotion.decision import Retest
from hacktree.server.promotion.holding import Subject, find_subject, hold, release
from hacktree.server.promotion.messages import (
    BRANCH,
    MAX_SMALL,
    HoldRequest,
    PromoteAnswer,
    PromoteRequest,
    RetestAnswer,
    RetestRequest,
    decode,
)
from hacktree.server.promotion.promoted import Note
from hacktree.server.promotion.promoting import Farm, Promoted, promote_by_hand
from hacktree.server.promotion.retesting import retest
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.signing_messages import (
    MAX_PROMOTION,
    FactsAnswer,
    PromotionAnswer,
    PromotionRequest,
)
from hacktree.server.promotion.suites import Suites, find_suite
from hacktree.server.refusals import continue_if_authenticated
from hacktree.server.requests import TOKEN, Api, json_answer, read_body

_Change = Callable[[Database, Subject, str, str, int], object]

_ACTION: Final = Action.PROMOTE


def add_steering_routes(app: web.Application, api: Api, database: Database) -> None:
    """Add what people with a token for `promote` ask for."""
    routes = _Routes(api, database)
    expect = partial(continue_if_authenticated, api)
    router = app.router
    router.add_route("POST", "/qa/promote", routes.promote, expect_handler=expect)
    router.add_route("POST", "/qa/promotions", routes.accept, expect_handler=expect)
    router.add_route("GET", f"/qa/facts/{{branch:{BRANCH}}}", routes.facts, expect_handler=expect)
    router.add_route("POST", "/qa/hold", routes.hold, expect_handler=expect)
    router.add_route("POST", "/qa/retest", routes.retest, expect_handler=expect)
    router.add_route("POST", "/qa/release", routes.release, expect_handler=expect)


_ANSWER: Final = json_of(dict[str, Any])
_REFUSALS: Final = (403, 404, 409, 422)


class _Routes:
    def __init__(self, api: Api, database: Database) -> None:
        self._api = api
        self._database = database

    @operation(
        "promote",
        body=json_of(PromoteRequest),
        answer=json_of(PromoteAnswer),
        refusals=_REFUSALS,
    )
    async def promote(self, request: web.Request) -> web.Response:
        """Promote by hand, on a farm without signatures: the keys of others are not kept here."""
        message = decode(PromoteRequest, await read_body(request, MAX_SMALL))
        branch = parse_branch_name(message.branch)
        api, token = self._api, request[TOKEN]
        api.require(token, _ACTION, branch)

        def work() -> Promoted:
            repository = api.repository
            suite = read_suites(repository).get(branch)
            build = resolve(repository, message.commit)
            note = Note(message.reason, f"token {token.id}")
            farm = Farm(repository, self._database)
            return promote_by_hand(farm, suite, branch, build, note, int(api.clock()))

        done = await api.threads.run(work)
        return json_answer(PromoteAnswer(done.head.hex(), done.build.hex()))

    @operation("show-facts", answer=json_of(FactsAnswer), refusals=(403,))
    async def facts(self, request: web.Request) -> web.Response:
        """Say what a signer can't learn from signatures: suite, verdicts, holds."""
        branch = parse_branch_name(request.match_info["branch"])
        api = self._api
        api.require(request[TOKEN], _ACTION, branch)

        def work() -> FactsAnswer:
            suite = read_suites(api.repository).get(branch)
            return facts_of(Farm(api.repository, self._database), suite, int(api.clock()))

        return json_answer(await api.threads.run(work))

    @operation(
        "publish-promotion",
        body=json_of(PromotionRequest),
        answer=json_of(PromotionAnswer),
        refusals=(403, 413, 422, *_REFUSALS),
    )
    async def accept(self, request: web.Request) -> web.Response:
        """Publish a promotion that was made and signed elsewhere, or renew its signature."""
        message = decode(PromotionRequest, await read_body(request, MAX_PROMOTION))
        branch = parse_branch_name(message.branch)
        api = self._api
        api.require(request[TOKEN], _ACTION, branch)
        sent = SignedPromotion(branch, message.commit, message.role, message.by_hand)

        def work() -> Promoted:
            suite = read_suites(api.repository).get(branch)
            farm = Farm(api.repository, self._database)
            return accept_promotion(farm, suite, sent, int(api.clock()))

        done = await api.threads.run(work)
        return json_answer(PromotionAnswer(done.head.hex(), done.repeated))

    @operation("hold", body=json_of(HoldRequest), answer=_ANSWER, refusals=_REFUSALS)
    async def hold(self, request: web.Request) -> web.Response:
        """Keep a branch, or a build, from moving."""
        return await self._change(request, hold)

    @operation("release", body=json_of(HoldRequest), answer=_ANSWER, refusals=_REFUSALS)
    async def release(self, request: web.Request) -> web.Response:
        """End a hold."""
        return await self._change(request, release)

    @operation(
        "retest", body=json_of(RetestRequest), answer=json_of(RetestAnswer), refusals=_REFUSALS
    )
    async def retest(self, request: web.Request) -> web.Response:
        """Give a build that a suite did not pass another run."""
        message = decode(RetestRequest, await read_body(request, MAX_SMALL))
        branch = parse_branch_name(message.suite)
        api, token = self._api, request[TOKEN]
        # Not for runners: whoever reports a fail must not be who lifts it.
        api.require(token, _ACTION, branch)

        def work() -> Retest:
            repository = api.repository
            suite = find_suite(read_suites(repository), branch)
            note = (message.reason, f"token {token.id}")
            build = message.build or None
            return retest(repository, self._database, suite, build, note, int(api.clock()))

        asked = await api.threads.run(work)
        return json_answer(RetestAnswer(asked.build.hex()))

    async def _change(self, request: web.Request, change: _Change) -> web.Response:
        message = decode(HoldRequest, await read_body(request, MAX_SMALL))
        api, token = self._api, request[TOKEN]

        def work() -> None:
            suites = read_suites(api.repository)
            subject = find_subject(api.repository, suites, message.subject)
            self._require(request, subject, suites)
            who = f"token {token.id}"
            change(self._database, subject, message.reason, who, int(api.clock()))

        await api.threads.run(work)
        return json_answer({})

    def _require(self, request: web.Request, subject: Subject, suites: Suites) -> None:
        """A hold on a build stops it on its way to every branch."""
        branches = suites if subject.branch is None else (subject.branch,)
        for branch in branches:
            self._api.require(request[TOKEN], _ACTION, branch)
