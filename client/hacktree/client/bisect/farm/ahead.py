"""Which builds to bring while one is tested: those that may come next, whatever is found. Pure."""

from collections.abc import Collection, Iterable, Mapping

from hacktree.client.bisect.core.choice import SAME_BYTES, after_verdict, choose
from hacktree.client.bisect.core.model import Candidate, Verdict
from hacktree.client.bisect.core.state import State
from hacktree.client.bisect.farm.costs import BuildTree, estimate_costs
from hacktree.common.delta.graph import Edge
from hacktree.common.objects.ids import ObjectId


def builds_ahead(
    state: State,
    index: int,
    builds: Mapping[str, BuildTree],
    held: Collection[ObjectId],
    edges: Iterable[Edge],
    priors: Mapping[str, int] | None = None,
) -> tuple[Candidate, ...]:
    """What to bring while `line[index]` is tested, in this order; nothing that is here.

    `builds`: of the line, by commit. `held`: trees that are here, with that of the build under
    test. They are the builds that follow the two verdicts, first the one that is the likelier for
    its bytes, as there may be time for one alone; and behind them the one that a skip leads to, if
    a build had to be skipped before. What comes later is not brought: half of it comes in vain for
    each test that is looked ahead.
    """
    costs = estimate_costs(builds, held, edges)
    chances = _chances(state, index, priors or {})
    verdicts = sorted(chances, key=lambda verdict: -chances[verdict])
    if state.skipped:
        verdicts.append(Verdict.SKIP)
    ranked: dict[Candidate, float] = {}
    for verdict in verdicts:
        choice = choose(after_verdict(state, index, verdict), costs, priors)
        if choice is None or choice.cost == 0:
            continue
        # No transfer is for free: it takes about the time of a few bytes more.
        cost = SAME_BYTES + (choice.cost or 0)
        ranked.setdefault(choice.candidate, chances.get(verdict, 0.0) / cost)
    return tuple(sorted(ranked, key=lambda build: -ranked[build]))


def _chances(state: State, index: int, priors: Mapping[str, int]) -> dict[Verdict, float]:
    """How likely each verdict on `line[index]` is, by the weights of the suspects."""
    suspects = range(state.low + 1, state.high + 1)
    weights = {i: priors.get(state.line[i].commit, 1) for i in suspects}
    new = sum(weight for i, weight in weights.items() if i <= index) / sum(weights.values())
    return {state.options.new: new, state.options.old: 1 - new}
