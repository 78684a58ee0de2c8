"""A farm with suites in a test's hands."""

from dataclasses import dataclass, field
from pathlib import Path

from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.repository.repository import Repository
from hacktree.server.database import Database, open_database
from hacktree.server.promotion.desk import Assignment, Idle, LocalDesk, Report
from hacktree.server.promotion.running import Runner, judge_next
from hacktree.server.promotion.sandbox import UNCONFINED, Confinement
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.suites import Suite
from hacktree.server.promotion.verdicts import Finding, Outcome, Verdict
from support.trees import Spec, make_commit

FASTQA = parse_branch_name("fastqa")
DAILYQA = parse_branch_name("dailyqa")
START = 1_800_000_000

PASS = Report(Finding(Outcome.PASS), 1.0, "lab-1")
FAIL = Report(Finding(Outcome.FAIL, "exit status 3"), 1.0, "lab-1", b"it broke\n")
UNSURE = Report(Finding(Outcome.INCONCLUSIVE, "exit status 125"), 1.0, "lab-1")


@dataclass
class Clock:
    """A clock that only tests move."""

    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class QaFarm:
    """`server.toml` with fastqa from builds and dailyqa, once a day, from fastqa."""

    repository: Repository
    command: str = "exit 0"
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        (self.repository.path / "server.toml").write_text(
            "[suites.fastqa]\n"
            'source = "builds"\n'
            f"command = ['/bin/sh', '-c', '''{self.command}''']\n"
            'limit = "2m"\n'
            "[suites.dailyqa]\n"
            'source = "fastqa"\n'
            "command = ['/bin/true']\n"
            'limit = "1h"\n'
            'every = "1d"\n'
        )
        self.database: Database = open_database(self.repository)

    def suite(self, name: BranchName = FASTQA) -> Suite:
        return read_suites(self.repository)[name]

    def desk(self, token: str = "") -> LocalDesk:
        suites = read_suites(self.repository)
        return LocalDesk(self.repository, self.database, suites, self.clock, token)

    def build(self, content: str = "1") -> ObjectId:
        """Another build of `builds`."""
        tree: dict[str | bytes, Spec] = {"etc/version": content.encode(), "bin/tool": b"#!"}
        return make_commit(self.repository, tree, branch="builds")

    def judge(self, report: Report, suite: BranchName = FASTQA) -> Verdict:
        """The newest untested build is judged like this."""
        desk = self.desk()
        claimed = desk.claim(suite, "lab-1")
        assert isinstance(claimed, Assignment), claimed
        return desk.report(claimed.lease, report)

    def run(
        self, suite: BranchName = FASTQA, confinement: Confinement = UNCONFINED
    ) -> Verdict | Idle:
        """One turn of a runner at the farm itself."""
        runner = Runner(
            self.desk(), self.repository, lambda suite, build: None, "lab-1", confinement
        )
        return judge_next(runner, suite, lambda claimed: None)


def scratch_left(repository: Repository) -> list[Path]:
    """What runners left behind."""
    base = repository.state / "qa" / "scratch"
    return list(base.iterdir()) if base.exists() else []
