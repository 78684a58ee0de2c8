"""Which builds to bring while one is tested: those that may come next, whatever is found. Pure."""

from collections.abc import Collection, Iterable, Mapping

from hacktree.client.bisect.choice import foresee
from hacktree.client.bisect.costs import BuildTree, estimate_costs
from hacktree.client.bisect.model import Candidate, Verdict
from hacktree.client.bisect.state import State
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
    test. The cheaper of the two verdicts' builds comes first, as there is time for one rather than
    for the other; what a skip would lead to comes last.
    """
    costs = estimate_costs(builds, held, edges)
    choices = foresee(state, index, costs, priors)
    likely = [choices[verdict] for verdict in (Verdict.GOOD, Verdict.BAD)]
    ordered = sorted(
        (choice for choice in likely if choice is not None), key=lambda choice: choice.cost or 0
    )
    skipped = choices[Verdict.SKIP]
    if skipped is not None:
        ordered.append(skipped)
    wanted = dict.fromkeys(choice.candidate for choice in ordered)
    return tuple(build for build in wanted if costs.get(build.commit) != 0)
