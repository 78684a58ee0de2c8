"""The signer on a machine of its own: it believes signatures and hashes, and checks the rest.

From the farm's metadata, verified from a root that the signer was told, come the heads of source
and target and the version of the target's role; from commits, hashed one by one, what follows what.
The farm's word counts for verdicts, holds and the schedule alone: it can keep a branch from moving,
or pass a build that failed, but nothing is signed except the tree of a signed build of the source,
after the one that was promoted last (ADR 18). What is sent the farm checks in its turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
from securesystemslib.signer import CryptoSigner

from hacktree.common.errors import PeerError, UserError
from hacktree.common.objects.commit import encode_commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.trust.editing import sign_branch
from hacktree.common.trust.roles import is_due, role_of_branch
from hacktree.common.trust.verifying import BranchRole, TrustedRemote
from hacktree.server.promotion.decision import (
    Decision,
    Promote,
    Standing,
    Stay,
    decide,
    hold_of,
)
from hacktree.server.promotion.farm_client import FarmClient, sensible
from hacktree.server.promotion.history import (
    History,
    build_of,
    history_from,
    source_of,
    walk_branch,
)
from hacktree.server.promotion.messages import decode, encode
from hacktree.server.promotion.promoted import NewCommit, Note, Place, promoted_commit
from hacktree.server.promotion.promoting import (
    KeyNeededError,
    Promoted,
    PromotionRefusedError,
    check_note,
    note_of,
)
from hacktree.server.promotion.remote_commits import RemoteCommits
from hacktree.server.promotion.signing_messages import (
    MAX_FACTS,
    FactsAnswer,
    PromotionAnswer,
    PromotionRequest,
)
from hacktree.server.promotion.suites import Suite

_ROUTE_ONLY = ("-",)
"""The command of a suite that only says from where to where; nothing runs it."""


class FarmDeceivesError(PeerError):
    """What the farm says does not agree with what is signed, or with what the signer was told."""


@dataclass(frozen=True, slots=True)
class RemoteSigner:
    """Promotes builds of `source` to `target` on a farm elsewhere, with the key of `target`."""

    farm: FarmClient
    trusted: TrustedRemote
    key: CryptoSigner
    target: BranchName
    source: BranchName
    commits: RemoteCommits = field(init=False)

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise UserError(f"{self.target} can't be promoted from itself")
        object.__setattr__(self, "commits", RemoteCommits(self.farm))

    def promote_next(self, now: int) -> Promoted | Stay:
        """Promote what may be promoted at `now`; else why nothing moves.

        A signature that has lived half of its life is renewed then. Raises `TrustError`,
        `FarmDeceivesError`, `KeyNeededError`, and as `FarmClient` does.
        """
        scene = self._look()
        if scene.suite is None:
            raise UserError(
                f"no suite promotes to {self.target} on {self.farm.url}",
                hint="hacktree promote, by hand; or define it in server.toml of the farm.",
            )
        decision = self._decide(scene, scene.suite, now)
        if isinstance(decision, Promote):
            note = note_of(scene.suite, decision)
            return self._send(scene, decision.build.id, note, now, by_hand=False)
        self._renew(scene, now)
        return decision

    def promote_by_hand(self, revision: str, note: Note, now: int) -> Promoted:
        """Promote the build that `revision` names: an id, its beginning, or SOURCE~2.

        Raises `PromotionRefusedError`, and as `promote_next` does.
        """
        check_note(note)
        scene = self._look()
        build = self._resolve(scene, revision)
        head, carried = scene.place.head, scene.place.commit
        if head is not None and carried is not None and source_of(carried) == build:
            return Promoted(build, head, carried, repeated=True)
        last = 0 if scene.history.last is None else scene.history.last.source_sequence
        if self.commits.load_commit(build).sequence <= last:
            raise PromotionRefusedError(
                f"{build.hex()[:12]} is not newer than build {last}, which {self.target} carries",
                hint="A branch only moves on. To go back, commit the older tree as a new build.",
            )
        held = hold_of(build_of(self.commits, build), sensible(scene.facts.all_holds))
        if held is not None:
            raise PromotionRefusedError(f"{build.hex()[:12]} is {held}")
        return self._send(scene, build, note, now, by_hand=True)

    def _look(self) -> "_Scene":
        """What is signed, and what follows from it; then the farm's facts."""
        self.commits.begin_look()
        roles = self.trusted.read_roles(
            [self.source, self.target],
            lambda name, limit: self.farm.read(f"trust/{name}", limit),
        )
        source, target = roles[self.source], roles[self.target]
        if self.key.public_key.keyid not in target.keys:
            raise KeyNeededError(
                f"the key {self.key.public_key.keyid[:16]} may not sign {self.target}",
                hint=f"hacktree trust add-key {self.target} --key FILE.pub, on the farm.",
            )
        commit = None if target.head is None else self.commits.load_commit(target.head)
        if commit is not None and commit.branch != self.target:
            raise FarmDeceivesError(f"the signed head of {self.target} is of {commit.branch}")
        if source.head is not None:
            self.commits.prefetch(self.source, source.head)
        route = Suite(self.target, self.source, _ROUTE_ONLY, 1)
        history = history_from(self.commits, route, target.head, source.head)
        self._require_continued(target.head, history)
        place = Place(self.target, target.head, commit)
        facts, suite = self._ask()
        return _Scene(target, place, history, facts, suite)

    def _ask(self) -> tuple[FactsAnswer, Suite | None]:
        """The farm's word, and the suite; its source must be the one that this signer was told."""
        answer = self.farm.ask("GET", f"qa/facts/{self.target}", limit=MAX_FACTS)
        facts = sensible(lambda: decode(FactsAnswer, answer))
        suite = sensible(lambda: facts.suite_of(self.target))
        if suite is not None and suite.source != self.source:
            raise FarmDeceivesError(
                f"the farm promotes to {self.target} from {suite.source}, and this signer was told "
                f"to take builds of {self.source}",
                hint="If that is what you want, say --source.",
            )
        return facts, suite

    def _require_continued(self, head: ObjectId | None, history: History) -> None:
        """Whoever hides what was promoted last could have an older build promoted."""
        oldest = history.builds[-1].id if history.builds else None
        before = () if oldest is None else self.commits.load_commit(oldest).parents
        parent: ObjectId | None = None
        for object_id, commit in walk_branch(self.commits, self.target, head):
            if history.last is not None and object_id == history.last.id:
                return
            parent = commit.parents[0] if commit.parents else None
            source = source_of(commit)
            # What was committed by hand, or promoted from elsewhere, is passed over.
            if source is not None and not self.commits.has_meta(source):
                self._require_before(source, before)
                return
        if parent is not None and not self.commits.has_meta(parent):
            self._require_before(parent, ())

    def _require_before(self, hidden: ObjectId, before: Sequence[ObjectId]) -> None:
        if hidden not in before:
            raise FarmDeceivesError(
                f"the farm does not show {hidden.hex()[:12]}, which {self.target} carries, nor "
                f"that the builds of {self.source} come after it",
                hint="If it was pruned there: promote the next build on the farm itself.",
            )

    def _decide(self, scene: "_Scene", suite: Suite, now: int) -> Decision:
        last, facts = scene.history.last, scene.facts
        standing = Standing(
            builds=scene.history.builds,
            verdicts=sensible(lambda: facts.verdicts_of(self.target)),
            holds=sensible(facts.all_holds),
            running=sensible(facts.testers),
            promoted=None if last is None else last.source_sequence,
            promoted_at=None if last is None else last.time,
        )
        return decide(suite, standing, now)

    def _send(
        self, scene: "_Scene", build: ObjectId, note: Note, now: int, *, by_hand: bool
    ) -> Promoted:
        original = self.commits.load_commit(build)
        new = promoted_commit(scene.place, build, original, note, now)
        self._publish(scene, new, now, by_hand=by_hand)
        return Promoted(build, new.id, new.commit)

    def _renew(self, scene: "_Scene", now: int) -> None:
        role, commit = scene.target, scene.place.commit
        moment = datetime.fromtimestamp(now, UTC)
        if role.head is None or role.expires is None or commit is None:
            return
        if source_of(commit) is None:
            return  # Not a promotion: whoever committed it renews it, too.
        if is_due(role_of_branch(self.target), role.expires, moment):
            head = NewCommit(role.head, encode_commit(commit), commit)
            self._publish(scene, head, now, by_hand=False)

    def _publish(self, scene: "_Scene", new: NewCommit, now: int, *, by_hand: bool) -> None:
        role = sign_branch(
            self.target, new.id, len(new.encoded), scene.target.version, self.key,
            datetime.fromtimestamp(now, UTC),
        )  # fmt: skip
        request = PromotionRequest(self.target, new.encoded, role.to_bytes(), by_hand)
        # It may be repeated: the commit is the same, and the farm knows its head.
        answer = self.farm.insist("POST", "qa/promotions", encode(request))
        head = sensible(lambda: decode(PromotionAnswer, answer)).head
        if head != new.id.hex():
            raise FarmDeceivesError(f"the farm says that {self.target} is at {head[:12]} now")

    def _resolve(self, scene: "_Scene", revision: str) -> ObjectId:
        """One of the builds that may be promoted, or the last that was."""
        builds = [build.id for build in scene.history.builds]
        name, _, back = revision.partition("~")
        if name == self.source and (back.isdecimal() or not back) and len(back) < 7:
            number = int(back or 0)
            found = builds[number : number + 1]
        else:
            found = [build for build in builds if revision and build.hex().startswith(revision)]
        if len(found) != 1:
            raise PromotionRefusedError(
                f"{len(found)} signed builds of {self.source} that {self.target} could move to are "
                f"{revision!r}",
                hint=f"An id, its first digits, or {self.source}~2; a branch only moves on.",
            )
        return found[0]


class _Scene(msgspec.Struct, frozen=True):
    """How things are, as far as the signer has verified them; `facts` are the farm's word."""

    target: BranchRole
    place: Place
    history: History
    facts: FactsAnswer
    suite: Suite | None
