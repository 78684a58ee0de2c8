"""Promise: a signer elsewhere signs what its source signed, forwards, whoever has the farm."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from securesystemslib.signer import CryptoSigner

from hacktree.common.errors import HacktreeError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.objectnames import meta_name
from hacktree.common.repository.refs import read_ref
from hacktree.common.trust import editing
from hacktree.common.trust.report import fingerprint
from hacktree.common.trust.roles import role_of_branch
from hacktree.common.trust.verifying import AbsentError, TrustError
from hacktree.server.api import make_api
from hacktree.server.grants import parse_grant
from hacktree.server.promotion.accepting import SignedPromotion, accept_promotion
from hacktree.server.promotion.connecting import trust_farm
from hacktree.server.promotion.decision import Cause, Stay
from hacktree.server.promotion.farm_client import FarmClient, FarmRefusedError
from hacktree.server.promotion.holding import Subject, hold
from hacktree.server.promotion.promoted import Note, Place, promoted_commit
from hacktree.server.promotion.promoting import (
    Farm,
    KeyNeededError,
    Promoted,
    PromotionRefusedError,
)
from hacktree.server.promotion.remote_commits import CommitWrongError
from hacktree.server.promotion.remote_signing import FarmDeceivesError, RemoteSigner
from hacktree.server.publication import HeadMovedError, SignatureWrongError, WrongCommitError
from hacktree.server.static import make_app
from hacktree.server.token_authenticator import DatabaseAuthenticator
from hacktree.server.tokens import create_token
from support.pulling import make_repository
from support.qa import DAILYQA, FAIL, FASTQA, PASS, START, QaFarm
from support.trees import make_commit
from support.trusting import BUILDS, SignedFarm, new_signer

Serve = Callable[[web.Application], Awaitable[TestServer]]
NOTE = Note("the lab is down", "ann")
DAY = 86_400


@pytest.fixture
def qa(tmp_path: Path) -> QaFarm:
    return QaFarm(make_repository(tmp_path / "farm"))


@pytest.fixture
def signed(qa: QaFarm) -> SignedFarm:
    return SignedFarm(qa.repository)


@pytest.fixture
async def url(qa: QaFarm, aiohttp_server: Serve) -> str:
    authenticator = DatabaseAuthenticator(qa.database)
    api = make_api(qa.repository, authenticator, database=qa.database, clock=qa.clock)
    server = await aiohttp_server(make_app(qa.repository.path, api))
    return str(server.make_url("")).rstrip("/")


@pytest.fixture
def signer(qa: QaFarm, signed: SignedFarm, url: str, tmp_path: Path) -> "Elsewhere":
    return Elsewhere(qa, signed, url, tmp_path / "state")


class Elsewhere:
    """A signer of fastqa on a machine of its own."""

    def __init__(self, qa: QaFarm, signed: SignedFarm, url: str, state: Path) -> None:
        grants = [parse_grant("promote:**")]
        secret = create_token(qa.database, grants, "", None, START)[1]
        self.client = FarmClient(url, secret, sleep=lambda _: None)
        self.root = fingerprint(signed.store.first_root())
        self.key = signed.keys[FASTQA]
        self.state = state

    def open(self, key: CryptoSigner | None = None, target: BranchName = FASTQA) -> RemoteSigner:
        trusted = trust_farm(self.client, self.state, self.root)
        return RemoteSigner(self.client, trusted, key or self.key, target, BUILDS)

    async def turn(self, now: int = START) -> Promoted | Stay:
        return await asyncio.to_thread(lambda: self.open().promote_next(now))

    async def by_hand(self, revision: str) -> Promoted:
        return await asyncio.to_thread(lambda: self.open().promote_by_hand(revision, NOTE, START))


def signed_build(qa: QaFarm, signed: SignedFarm, content: str = "1") -> ObjectId:
    build = qa.build(content)
    signed.sign(build, BUILDS)
    return build


async def test_what_passed_is_promoted_and_signed_once(
    qa: QaFarm, signed: SignedFarm, signer: Elsewhere
) -> None:
    for content in ("1", "2"):
        build = signed_build(qa, signed, content)
        stays = await signer.turn()
        assert isinstance(stays, Stay)
        assert stays.cause is Cause.UNTESTED
        qa.judge(PASS)
        done = await signer.turn()
        assert isinstance(done, Promoted)
        assert done.build == build
        assert read_ref(qa.repository, FASTQA) == done.head
        assert editing.head_signed(signed.store.load(), FASTQA) == done.head
        commit = qa.repository.load_commit(done.head)
        assert commit.root == qa.repository.load_commit(build).root
        assert isinstance(await signer.turn(), Stay)
    assert commit.sequence == 2


async def test_a_person_promotes_from_elsewhere(
    qa: QaFarm, signed: SignedFarm, signer: Elsewhere
) -> None:
    old, failed = signed_build(qa, signed, "old"), signed_build(qa, signed, "failed")
    qa.judge(FAIL)
    hold(qa.database, Subject(None, failed), "breaks suspend", "ann", START)
    with pytest.raises(PromotionRefusedError, match="breaks suspend"):
        await signer.by_hand("builds")
    for revision in ("builds~2", "builds~x", "", "f" * 64):
        with pytest.raises(PromotionRefusedError):
            await signer.by_hand(revision)
    done = await signer.by_hand("builds~1")
    assert done.build == old
    assert done.commit.metadata["promoted-by"] == "ann"
    assert (await signer.by_hand(old.hex()[:12])).repeated
    assert read_ref(qa.repository, FASTQA) == done.head


async def test_a_quiet_branch_is_renewed(qa: QaFarm, signed: SignedFarm, signer: Elsewhere) -> None:
    signed_build(qa, signed)
    qa.judge(PASS)
    await signer.turn()
    before = editing.branch_version(signed.store.load(), FASTQA)
    qa.clock.now = START + 50 * DAY
    for _ in range(2):
        assert isinstance(await signer.turn(START + 50 * DAY), Stay)
    state = signed.store.load()
    assert editing.branch_version(state, FASTQA) == before + 1
    assert editing.head_signed(state, FASTQA) == read_ref(qa.repository, FASTQA)


async def test_an_unsigned_build_that_the_farm_says_passed_is_not_signed(
    qa: QaFarm, signed: SignedFarm, signer: Elsewhere
) -> None:
    """Whoever has the farm writes refs, verdicts, and whatever the API answers."""
    signed_build(qa, signed)
    evil = make_commit(qa.repository, {"bin/sh": b"evil"}, branch="builds")
    with qa.database.writing() as connection:
        connection.execute(
            "INSERT INTO verdicts (build, suite, outcome, reason, duration, machine, log, token, "
            "time, lease) VALUES (?, 'fastqa', 'pass', '', 1, 'm', '', '', 1, 'x')",
            (evil,),
        )
    stays = await signer.turn()
    assert isinstance(stays, Stay)
    assert stays.cause is Cause.UNTESTED
    with pytest.raises(PromotionRefusedError):
        await signer.by_hand(evil.hex())


async def test_another_tree_in_the_name_of_a_signed_build_is_noticed(
    qa: QaFarm, signed: SignedFarm, signer: Elsewhere
) -> None:
    build = signed_build(qa, signed)
    qa.judge(PASS)
    evil = make_commit(qa.repository, {"bin/sh": b"evil"}, branch="elsewhere")
    objects = qa.repository.objects
    (objects / meta_name(build)).chmod(0o644)
    (objects / meta_name(build)).write_bytes((objects / meta_name(evil)).read_bytes())
    (qa.repository.path / "branches/builds/history/tail").unlink()
    with pytest.raises(CommitWrongError, match="other bytes"):
        await signer.turn()


async def test_another_source_than_the_signer_was_told_is_refused(
    qa: QaFarm, signed: SignedFarm, signer: Elsewhere
) -> None:
    signed_build(qa, signed)
    qa.judge(PASS)
    settings = qa.repository.path / "server.toml"
    settings.write_text(settings.read_text().replace('"builds"', '"evil"'))
    with pytest.raises(FarmDeceivesError, match="from evil"):
        await signer.turn()


async def test_what_was_promoted_last_can_not_be_hidden(
    qa: QaFarm, signed: SignedFarm, signer: Elsewhere
) -> None:
    """With the online key and a signer that has seen nothing yet: an older head of builds."""
    signed_build(qa, signed, "old")
    qa.judge(PASS)
    before = signed.store.load().roles[role_of_branch(BUILDS)]
    newer = signed_build(qa, signed, "new")
    qa.judge(PASS)
    assert isinstance(await signer.turn(), Promoted)
    signed.force(role_of_branch(BUILDS), before)
    with pytest.raises(TrustError, match="rollback"):
        await signer.turn()
    signer.state = signer.state / "anew"
    stays = await signer.turn()
    assert isinstance(stays, Stay)
    (qa.repository.objects / meta_name(newer)).unlink()
    (qa.repository.path / "branches/builds/history/tail").unlink()
    with pytest.raises(FarmDeceivesError, match="does not show"):
        await signer.turn()


class HidingFarm(FarmClient):
    """Says of files named in `hidden` that they are not there, so many times each."""

    hidden: ClassVar[dict[str, int]] = {}

    def read(self, path: str, limit: int) -> bytes:
        if self.hidden.get(path, 0) > 0:
            self.hidden[path] -= 1
            raise AbsentError(path)
        return FarmClient.read(self, path, limit)


@pytest.fixture
def hiding(signer: Elsewhere) -> Iterator[dict[str, int]]:
    """Files that the farm hides from the signer."""
    signer.client = HidingFarm(signer.client.url, signer.client.secret, sleep=lambda _: None)
    yield HidingFarm.hidden
    HidingFarm.hidden.clear()


async def test_what_was_promoted_last_can_not_be_hidden_and_then_shown(
    qa: QaFarm, signed: SignedFarm, signer: Elsewhere, hiding: dict[str, int]
) -> None:
    """Hidden, it does not count as promoted; shown, the way to the build before is open."""
    signed_build(qa, signed, "old")
    qa.judge(PASS)
    last = signed_build(qa, signed, "new")
    qa.judge(PASS)
    assert isinstance(await signer.turn(), Promoted)
    hold(qa.database, Subject(None, last), "breaks suspend", "ann", START)
    hiding |= {"branches/builds/history/tail": 1, f"objects/{meta_name(last)}": 1}
    with pytest.raises(FarmDeceivesError, match="does not show"):
        await signer.turn()
    stays = await signer.turn()
    assert isinstance(stays, Stay)
    assert stays.cause is Cause.UP_TO_DATE


async def test_promotions_below_a_head_that_was_made_by_hand_can_not_be_hidden(
    qa: QaFarm, signed: SignedFarm, signer: Elsewhere, hiding: dict[str, int]
) -> None:
    signed_build(qa, signed, "old")
    qa.judge(PASS)
    last = signed_build(qa, signed, "new")
    qa.judge(PASS)
    promoted = await signer.turn()
    assert isinstance(promoted, Promoted)
    signed.sign(make_commit(qa.repository, {"bin/sh": b"by hand"}, branch="fastqa"), FASTQA)
    hold(qa.database, Subject(None, last), "breaks suspend", "ann", START)
    hiding[f"objects/{meta_name(promoted.head)}"] = 100
    with pytest.raises(FarmDeceivesError, match="does not show"):
        await signer.turn()
    hiding.clear()
    stays = await signer.turn()
    assert isinstance(stays, Stay)
    assert stays.cause is Cause.UP_TO_DATE


async def test_a_head_of_the_target_that_nobody_signed_is_not_followed(
    qa: QaFarm, signed: SignedFarm, signer: Elsewhere
) -> None:
    signed_build(qa, signed)
    qa.judge(PASS)
    make_commit(qa.repository, {"bin/sh": b"evil"}, branch="fastqa")
    with pytest.raises(FarmRefusedError, match="is not signed"):
        await signer.turn()
    assert editing.head_signed(signed.store.load(), FASTQA) is None


async def test_another_root_or_key_is_refused(
    qa: QaFarm, signed: SignedFarm, signer: Elsewhere
) -> None:
    signed_build(qa, signed)
    with pytest.raises(KeyNeededError, match="may not sign"):
        await asyncio.to_thread(lambda: signer.open(new_signer()).promote_next(START))
    with pytest.raises(TrustError, match="signs no branch dailyqa"):
        await asyncio.to_thread(lambda: signer.open(target=DAILYQA).promote_next(START))
    signer.root = "0" * 64
    with pytest.raises(TrustError, match="another root"):
        await signer.turn()
    signer.state = signer.state / "anew"
    with pytest.raises(TrustError, match="another one than the fingerprint says"):
        await signer.turn()


class Forger:
    """Has a token for `promote:fastqa`, and makes promotions of its own."""

    def __init__(self, qa: QaFarm, signed: SignedFarm) -> None:
        self.qa, self.signed = qa, signed

    def send(
        self, build: ObjectId, *, tree: ObjectId | None = None, parent: ObjectId | None = None,
        key: CryptoSigner | None = None, time: int = START, by_hand: bool = False,
        note: Note = NOTE, version: int = 0,
    ) -> Promoted:  # fmt: skip
        repository, signed = self.qa.repository, self.signed
        place = Place(FASTQA, parent, None if parent is None else repository.load_commit(parent))
        original = repository.load_commit(tree or build)
        new = promoted_commit(place, build, original, note, time)
        role = editing.sign_branch(
            FASTQA, new.id, len(new.encoded), version, key or signed.keys[FASTQA], signed.now
        )
        sent = SignedPromotion(FASTQA, new.encoded, role.to_bytes(), by_hand)
        farm = Farm(repository, self.qa.database)
        return accept_promotion(farm, self.qa.suite(), sent, START)


def test_the_farm_checks_all_of_it_again(qa: QaFarm, signed: SignedFarm) -> None:
    forger = Forger(qa, signed)
    old = signed_build(qa, signed, "old")
    qa.judge(PASS)
    build = signed_build(qa, signed, "1")
    other = make_commit(qa.repository, {"bin/sh": b"evil"}, branch="elsewhere")
    refused: list[tuple[type[HacktreeError], Callable[[], object]]] = [
        (PromotionRefusedError, lambda: forger.send(build)),
        (PromotionRefusedError, lambda: forger.send(build, by_hand=True, note=Note("", "ann"))),
        (PromotionRefusedError, lambda: forger.send(other, by_hand=True)),
        (PromotionRefusedError, lambda: forger.send(ObjectId(bytes(32)), tree=old)),
        (WrongCommitError, lambda: forger.send(old, tree=other)),
        (WrongCommitError, lambda: forger.send(old, time=START + 7200)),
        (HeadMovedError, lambda: forger.send(old, parent=build)),
        (SignatureWrongError, lambda: forger.send(old, key=signed.keys[BUILDS])),
        (SignatureWrongError, lambda: forger.send(old, version=3)),
    ]
    for error, attempt in refused:
        with pytest.raises(error):
            attempt()
        assert read_ref(qa.repository, FASTQA) is None
    done = forger.send(old)
    assert read_ref(qa.repository, FASTQA) == done.head
    # The answer was lost, and it is sent again.
    assert forger.send(old).repeated
    with pytest.raises(PromotionRefusedError):
        forger.send(old, parent=done.head, by_hand=True, version=1)
    assert forger.send(build, parent=done.head, by_hand=True, version=1).commit.sequence == 2


async def test_two_signers_promote_once(
    qa: QaFarm, signed: SignedFarm, signer: Elsewhere, tmp_path: Path
) -> None:
    signed_build(qa, signed)
    qa.judge(PASS)
    first = await asyncio.to_thread(signer.open)
    signer.state = tmp_path / "second"
    second = await asyncio.to_thread(signer.open)
    done = await asyncio.gather(
        *(asyncio.to_thread(one.promote_next, START + i) for i, one in enumerate((first, second))),
        return_exceptions=True,
    )
    assert any(isinstance(one, Promoted) for one in done)
    head = read_ref(qa.repository, FASTQA)
    assert head is not None
    assert qa.repository.load_commit(head).sequence == 1
    assert editing.head_signed(signed.store.load(), FASTQA) == head
