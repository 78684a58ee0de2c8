"""Sessions for tests of what is shown of a bisection, over real commits with hostile texts."""

from hacktree.client.bisect.core.model import (
    Answered,
    Candidate,
    RangeSkipped,
    Session,
    Terms,
    Verdict,
)
from hacktree.client.bisect.core.state import record
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository
from support.trees import File, Spec, make_commit

STEERS = "\x1b[2J\u202e\x9b31m"
ATTACK = f"`{STEERS}</title><script>document.title='owned'</script>"
"""What a farm may write wherever it may write text."""


def make_history(repository: Repository, count: int, culprit: int) -> list[ObjectId]:
    """Builds 1 to `count` of fastqa; with build `culprit` the package mesa changes its files."""
    found = []
    for number in range(1, count + 1):
        mesa = "24.2" if number >= culprit else "24.1"
        tree: dict[str | bytes, Spec] = {
            "usr/lib/libGL.so": File(mesa.encode() * 1000),
            "usr/bin/same": b"same",
            "etc/build": str(number).encode(),
        }
        if number >= culprit:
            tree[f"usr/bin/{ATTACK.replace('/', '|')}".encode()] = b"new"
        found.append(
            make_commit(
                repository,
                tree,
                time=1_700_000_000 + number * 3600,
                version=f"47.{number} {ATTACK if number == culprit else ''}".rstrip(),
                metadata={
                    "packages": [["glibc", "2.40", "x86_64"], ["mesa", mesa, "x86_64"]],
                    "source-revision": f"{number:040x}",
                    ATTACK: f"{number} {ATTACK}",
                },
            )
        )
    return found


def candidates(repository: Repository, commits: list[ObjectId]) -> tuple[Candidate, ...]:
    """The line of these commits, oldest first."""
    found = []
    for one in commits:
        commit = repository.load_commit(one)
        found.append(
            Candidate(one.hex(), commit.branch, commit.sequence, commit.time, commit.version)
        )
    return tuple(found)


def answered(
    session: Session, *answers: tuple[int, Verdict], note: str = "said by a test"
) -> Session:
    """The session with these answers, by index in its first line."""
    for index, verdict in answers:
        event = Answered(session.line[index].commit, verdict, 1_700_100_000, note)
        session = record(session, event)
    return session


def skipped(session: Session, first: int, last: int) -> Session:
    """The session with this range of its first line skipped."""
    line = session.line
    return record(session, RangeSkipped(line[first].commit, line[last].commit, 1_700_100_000))


FAST_AND_SLOW = Terms("fast", "slow")
