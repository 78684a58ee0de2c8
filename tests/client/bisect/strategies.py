"""Histories, prices and testers for the properties of a bisection."""

from dataclasses import dataclass
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hacktree.client.bisect.model import Candidate, Options, Verify
from support.bisecting import make_line

UNTIMED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Properties are about values, not about how fast a busy machine makes them."""


@dataclass(frozen=True)
class History:
    """A line of builds, of which `culprit` is the index of the first new one."""

    line: tuple[Candidate, ...]
    culprit: int
    costs: dict[str, int]
    priors: dict[str, int]
    broken: frozenset[int]
    """Builds between the ends that can't be tested."""

    def __repr__(self) -> str:
        return f"History({len(self.line)}, {self.culprit}, broken={sorted(self.broken)})"


@st.composite
def histories(draw: st.DrawFn, most: int = 130) -> History:
    """Two to `most` builds; prices of none, some or all are known, and priors of a few."""
    line = make_line(draw(st.integers(2, most)))
    indices = st.integers(0, len(line) - 1)
    chance = Random(draw(st.integers(0, 1 << 32)))  # Drawn one by one they would take long.
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    costs = {
        build.commit: chance.choice([0, chance.randrange(1, 400)]) * 1_000_000
        for build in line
        if chance.random() < share
    }
    priors = draw(st.dictionaries(indices, st.integers(1, 1_000_000), max_size=4))
    start, length = draw(indices), draw(st.integers(0, len(line) // 4))
    broken = draw(st.frozensets(indices, max_size=6)) | frozenset(range(start, start + length))
    return History(
        line,
        draw(st.integers(1, len(line) - 1)),
        costs,
        {line[index].commit: weight for index, weight in priors.items()},
        frozenset(index for index in broken if 0 < index < len(line) - 1),
    )


searches = st.builds(
    Options, find_fix=st.booleans(), strict_midpoint=st.booleans(), verify=st.just(Verify.NEVER)
)
"""Ways to search that test each build once and no end."""
