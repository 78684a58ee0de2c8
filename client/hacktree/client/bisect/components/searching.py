"""The search for the packages that broke it: which mixtures are tested, and what their answers say.

Each answer is written before the next test begins. Killed anywhere, the same search asks the same
again, gets what is known without a test, and goes on.
"""

from collections.abc import Callable, Sequence

import msgspec

from hacktree.client.bisect.components.composing import Composed, Ends, compose, store
from hacktree.client.bisect.components.minimising import Minimal, Outcome, minimise
from hacktree.client.bisect.components.planning import REST, Component
from hacktree.client.bisect.components.regenerating import paths_of
from hacktree.client.bisect.components.saved import Answer, Saved, pin, unpin, write_search
from hacktree.client.bisect.components.testing import RootTester, Tried
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId, parse_object_id


class EndpointWrongError(UserError):
    """The good build doesn't pass, or the bad one doesn't fail: there is nothing to search."""


class Found(msgspec.Struct, frozen=True):
    """`culprits` together break it; `brought`: what they need, which came with them and without
    them breaks nothing. Of `doubtful` culprits it could not be tested whether they are needed.
    """

    culprits: tuple[Component, ...]
    brought: tuple[Component, ...]
    doubtful: tuple[Component, ...]
    answers: tuple[Answer, ...]


class Search(msgspec.Struct):
    """One search; `saved` is what is on disk. `tell` gets a line before and after each test."""

    ends: Ends
    tester: RootTester
    saved: Saved
    tell: Callable[[str], None]
    _known: dict[frozenset[int], Outcome] = {}

    def run(self) -> Found:
        """Search to the end. Raises `EndpointWrongError`, and what a test raises."""
        everything = frozenset(range(len(self.ends.plan.components)))
        self._check_end(frozenset(), Outcome.PASSES)
        self._check_end(everything, Outcome.FAILS)
        minimal = minimise(sorted(everything), self.ask)
        self._finish()
        return self._found(minimal)

    def ask(self, chosen: frozenset[int]) -> Outcome:
        """What the test says of these components, with all that they need."""
        new = self.ends.plan.close(chosen)
        if new not in self._known:
            composed = compose(self.ends, new)
            answer = self._answer(composed.tree) or self._test(composed)
            self._known[new] = answer.outcome
        return self._known[new]

    def clear(self) -> None:
        """Remove what a killed test left."""
        if self.saved.testing:
            commit = parse_object_id(self.saved.testing)
            self.tester.remove_roots(commit, self.saved.spared)
            self._write(testing="", spared=())

    def _check_end(self, chosen: frozenset[int], expected: Outcome) -> None:
        outcome = self.ask(chosen)
        if outcome is expected:
            return
        self._finish()
        end, commit = ("bad", self.ends.bad) if chosen else ("good", self.ends.good)
        said = {
            Outcome.PASSES: "passes",
            Outcome.FAILS: "fails",
            Outcome.UNRESOLVED: "can't be tested",
        }[outcome]
        raise EndpointWrongError(
            f"the {end} build {commit.hex()[:12]} {said}: there is nothing to search",
            hint="The command ends with 0 where it works and with 1 to 124 where it is broken. It "
            "runs in the root, where your home and /tmp are; `--forget` lets it be tested again.",
        )

    def _finish(self) -> None:
        self._write(finished=True)
        unpin(self.tester.sysroot, "mixture", "good", "bad")

    def _answer(self, tree: ObjectId) -> Answer | None:
        return next((one for one in self.saved.answers if one.tree == tree.hex()), None)

    def _test(self, composed: Composed) -> Answer:
        self.tell(self._describe(composed.chosen))
        commit = store(self.ends, composed, self._keep)
        branch = self.ends.commits[1].branch
        stale = self._stale(composed.chosen)
        tried = self.tester.test(commit, branch, stale, self._previous(), self.saved.spared)
        if tried.missing is not None and not composed.chosen:
            raise tried.missing
        answer = _to_answer(composed, tried)
        self.tell(f"  {answer.outcome.value}: {tried.note}")
        self._write(answers=(*self.saved.answers, answer), testing="", spared=())
        return answer

    def _keep(self, commit: ObjectId) -> None:
        """Before it is written: prune keeps the commit, and who resumes knows of its root."""
        pin(self.tester.sysroot, "mixture", commit)
        self._write(testing=commit.hex(), spared=self.tester.list_roots(commit))

    def _write(self, **changes: object) -> None:
        self.saved = msgspec.structs.replace(self.saved, **changes)
        write_search(self.tester.sysroot, self.saved)

    def _previous(self) -> str:
        """The verdict of the test before, by the names that `hacktree bisect run` has for them."""
        words = {Outcome.PASSES: "good", Outcome.FAILS: "bad", Outcome.UNRESOLVED: "skip"}
        return words[self.saved.answers[-1].outcome] if self.saved.answers else ""

    def _stale(self, chosen: frozenset[int]) -> Sequence[str]:
        """Paths that are of another build than the caches."""
        components = self.ends.plan.components
        if len(chosen) in (0, len(components)):
            return ()
        others = set(range(len(components))) - chosen
        rest = next((at for at, one in enumerate(components) if REST in one.names), None)
        changes = self.ends.plan.changes(others if rest in chosen else chosen)
        return paths_of(change.path for change in changes)

    def _describe(self, chosen: frozenset[int]) -> str:
        total = len(self.ends.plan.components)
        number = len(self.saved.answers) + 1
        if len(chosen) in (0, total):
            return f"test {number}: the {'bad' if chosen else 'good'} build itself"
        return f"test {number}: {len(chosen)} of {total} from the bad build"

    def _found(self, minimal: Minimal) -> Found:
        components = self.ends.plan.components
        whole = self.ends.plan.close(minimal.changes)
        return Found(
            tuple(components[one] for one in minimal.changes),
            tuple(components[one] for one in sorted(whole - set(minimal.changes))),
            tuple(components[one] for one in sorted(minimal.doubtful)),
            self.saved.answers,
        )


def _to_answer(composed: Composed, tried: Tried) -> Answer:
    return Answer(
        composed.tree.hex(),
        tried.outcome,
        len(composed.chosen),
        round(tried.seconds, 3),
        tried.note[:1000],
    )
