"""A search that makes no root between its tests: bring a build, test it, bring the next one.

What `hacktree bisect` does but for the roots, by the same functions: so nothing but the test leaves
time to bring builds ahead. Whether a build is bad is read from its commit; the test is a pause.
Prints a JSON list of [commit, sequence, was it here, seconds to bring it]. For bisect.py.
"""

import json
import sys
import time
from pathlib import Path

from hacktree.client.bisect.core.choice import choose
from hacktree.client.bisect.core.model import Answered, Options, Session, Verdict, Verify
from hacktree.client.bisect.core.state import State, current_state, record
from hacktree.client.bisect.farm.ahead import builds_ahead
from hacktree.client.bisect.farm.fetching import bring_build, release_builds
from hacktree.client.bisect.farm.lines import parse_name
from hacktree.client.bisect.farm.prefetch import (
    PrefetchLimits,
    build_under_way,
    let_finish,
    start_prefetch,
    stop_prefetch,
)
from hacktree.client.bisect.farm.reading import read_ends
from hacktree.client.bisect.farm.transfers import Transfers
from hacktree.client.remote import load_remote
from hacktree.common.delta.prefer import Prefer
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.repository import Repository, open_repository


def main() -> int:
    """Arguments: repository, remote, branch, builds, the first bad one, seconds of tests as JSON
    (by commit, "" for others) or `-`: nothing is brought ahead then, and no test takes any time.
    """
    path, name, text, builds, first_bad, told = sys.argv[1:]
    repository = open_repository(Path(path))
    remote, branch = load_remote(repository, name), parse_branch_name(text)
    ahead, seconds = told != "-", {} if told == "-" else json.loads(told)
    old = parse_name(f"{branch}~{int(builds) - 1}", branch, None)
    line = read_ends(repository, remote, branch, old, parse_name(branch, branch, None)).value
    transfers = Transfers(repository)
    transfers.learn(remote, line.builds, line.trees)
    session = Session("0" * 32, name, 0, Options(verify=Verify.NEVER), line.builds)
    steps = []
    while True:
        state = current_state(session)
        begun = time.monotonic()
        waited = wait_for_next(repository, state, transfers)
        stop_prefetch(repository)
        choice = choose(state, transfers.costs(state.line))
        if choice is None:
            break
        build = choice.candidate
        bring_build(repository, remote, transfers.request(build))
        took = time.monotonic() - begun
        steps.append((build.commit, build.sequence, choice.cost == 0 and not waited, took))
        if ahead:
            held, trees = transfers.held(), transfers.trees
            wanted = builds_ahead(state, choice.index, trees, held, transfers.edges)
            wishes = [transfers.request(wish, Prefer.BYTES) for wish in wanted]
            start_prefetch(repository, name, wishes, PrefetchLimits())
        time.sleep(seconds.get(build.commit, seconds.get("", 0)))
        verdict = Verdict.BAD if build.sequence >= int(first_bad) else Verdict.GOOD
        session = record(session, Answered(build.commit, verdict))
    release_builds(repository)
    print(json.dumps({"found": state.last.sequence, "steps": steps}))
    return 0


def wait_for_next(repository: Repository, state: State, transfers: Transfers) -> bool:
    """As `hacktree bisect` waits a moment for a build that is under way; whether it did."""
    build = build_under_way(repository)
    if build is None or state.outcome is not None:
        return False
    choice = choose(state, {**transfers.costs(state.line), build.hex(): 0})
    if choice is None or choice.candidate.commit != build.hex():
        return False
    let_finish(repository, build)
    return True


if __name__ == "__main__":
    sys.exit(main())
