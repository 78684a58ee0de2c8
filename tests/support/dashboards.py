"""A farm that has something of all that the dashboard shows, with hostile names."""

from pathlib import Path

from hacktree.common.objects.names import parse_branch_name
from hacktree.server.jobs import Kind, enqueue, fail, take_next
from hacktree.server.promotion.desk import Report
from hacktree.server.promotion.holding import Subject, hold
from hacktree.server.promotion.promoting import Farm, promote_next
from hacktree.server.promotion.verdicts import Finding, Outcome
from support.pulling import make_repository
from support.qa import FASTQA, QaFarm
from support.trees import Spec, make_commit
from support.trusting import BUILDS, SignedFarm

ATTACK = "</td></title></style><script>document.title='owned'</script>"
IMAGE = "<img src=x onerror=\"document.title='owned'\">"
TURNED = "1.0\u202e0.9"
"""A version with a mark that turns the direction of what follows."""

LOG = b"a log that nobody but the farm's own people reads"
FAULT = "no space left in /srv/private/place"


def hostile_farm(path: Path) -> QaFarm:
    """Builds 1 to 3 of `builds`: 1 promoted, 2 failed, 3 untested; `side` held by its build."""
    repository = make_repository(path)
    signed, qa = SignedFarm(repository), QaFarm(repository)
    for number, version in enumerate((ATTACK, IMAGE, TURNED)):
        tree: dict[str | bytes, Spec] = {"f": bytes([number]) * 50_000}
        head = make_commit(repository, tree, branch="builds", version=version)
        signed.sign(head, BUILDS)
        if number == 0:
            qa.judge(Report(Finding(Outcome.PASS), 62.0, f"lab {ATTACK}"[:200], LOG))
            farm = Farm(repository, qa.database, signed.keys[FASTQA])
            promote_next(farm, qa.suite(), int(signed.now.timestamp()))
        elif number == 1:
            qa.judge(Report(Finding(Outcome.FAIL, IMAGE), 1.0, IMAGE, LOG))
    held = make_commit(repository, {"f": b"s"}, branch=parse_branch_name("side"))
    hold(qa.database, Subject(None, held), ATTACK, "admin", int(qa.clock()))
    enqueue(qa.database, Kind.DELTAS, "side", 0)
    while job := take_next(qa.database, (Kind.DELTAS,), int(qa.clock())):
        fail(qa.database, job, FAULT, int(qa.clock()))
    return qa
