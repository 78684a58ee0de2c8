"""A search through 64 real builds with a known culprit: tests, bytes, and waiting.

The builds are those of builds.py, in one line: first all that have the culprit's old version, then
all that have its new one. Each is a new commit of a tree that is there, in a copy of the farm made
of hard links, so that the packs serve. The tester has the two ends, as after an upgrade that broke
something, and searches with `hacktree bisect run`, unattended: a test asks the root's own dpkg.

Five searches for each culprit, through a link of one speed:

- strict: the middle every time, every object by itself (the site shows no packs);
- cost: the cheapest of the builds that take no test more, over packs;
- ahead: the same while builds are brought ahead; a test takes as long as bringing the build took
  in the search before, or that search's mean for a build that it didn't test;
- loop, loop+: the same two by bisect_loop.py, which makes no root between: nothing is brought while
  a root is made, and a test of loop+ takes as long as bringing the build took in loop.

With --only-bad-end the tester has nothing but the bad end. "cost" and "ahead" bring the old end
first, "cost-later" and "ahead-later" don't; nor does strict, which has nothing to go forward over.

"Here" is a build that was here whole when it was chosen, and was not waited for before. Of the
others, "short" counts those that came within SHORT seconds all the same: less than a person notices
after an answer.

In --dir: bisect/farm, bisect/tester (both ends deployed), bisect/tester-bad (the bad one), and what
a search leaves. As root.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from bench.builds import BRANCHES, EPOCH, HOUR, make_builds
from bench.harness import HACKTREE, measure
from bench.network import HOST, Sites, Traffic, behind, linked
from bench.trees import default_directory, report

from hacktree.client.remote import Remote, add_remote
from hacktree.client.sysroot import prepare_sysroot
from hacktree.common.objects.commit import Commit, encode_commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.objects.packages import packages_from_metadata
from hacktree.common.repository.published_history import publish_history
from hacktree.common.repository.refs import hold_refs, move_ref, read_ref
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.revision import resolve
from hacktree.common.repository.transaction import begin_transaction

BOTH_ENDS = (f"{BRANCHES[0]}~47", BRANCHES[0])
BAD_END = BRANCHES[:1]
CULPRITS = ("libpng16-16", "libsystemd0", "python3.11")
PORT = 18560
STRICT = ("--strict-midpoint", "--no-prefetch", "--no-old-end-first")
SHORT = 0.5

TEST = """\
import json, os, subprocess, sys, time
seconds, package, good = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
root, build = os.environ["HACKTREE_ROOT"], os.environ["HACKTREE_BUILD"]
time.sleep(seconds.get(build[:9], seconds.get("", 0)))
query = ["dpkg-query", "--admindir", root + "/var/lib/dpkg", "-W", "-f", "${Version}", package]
sys.exit(subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout != good)
"""
"""A test: is the package that is installed in this root the one of the good end?"""


# --- the line -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A branch of 64 builds: the culprit, its version at the good end, and the first bad build."""

    branch: str
    culprit: str
    good: str
    builds: int
    first_bad: int


def history(farm: Repository, branch: str) -> list[Commit]:
    """A branch's commits, oldest first."""
    commits, wanted = [], resolve(farm, branch)
    while True:
        commits.append(farm.load_commit(wanted))
        if not commits[-1].parents:
            return commits[::-1]
        wanted = commits[-1].parents[0]


def version_of(commit: Commit, package: str) -> str:
    """Of a package in a build."""
    found = packages_from_metadata(commit.metadata["packages"])
    return next(each.version for each in found if each.name == package)


def make_line(farm: Repository, culprit: str) -> Line:
    """Commit the trees of all builds to a branch, in the order that the culprit asks for."""
    main, other = (history(farm, branch) for branch in BRANCHES)
    good = version_of(main[0], culprit)
    old = [commit for commit in (*main, *other) if version_of(commit, culprit) == good]
    new = [commit for commit in (*other, *main) if version_of(commit, culprit) != good]
    branch = parse_branch_name(f"line-{culprit}")
    line = Line(branch, culprit, good, len(old) + len(new), len(old) + 1)
    if read_ref(farm, branch) is not None:
        return line
    parent: ObjectId | None = None
    with begin_transaction(farm) as transaction:
        for number, commit in enumerate((*old, *new)):
            placed = msgspec.structs.replace(
                commit,
                parents=() if parent is None else (parent,),
                sequence=number + 1,
                branch=branch,
                time=EPOCH + number * HOUR,
            )
            parent = transaction.put_commit(encode_commit(placed))
        transaction.publish()
    assert parent is not None
    publish_history(farm, branch, parent)
    with hold_refs(farm):
        move_ref(farm, branch, parent, expected=None)
    return line


def copy_farm(farm: Path, copy: Path) -> None:
    """What is published, as hard links: nothing of it is ever written into."""
    if copy.exists():
        return
    partial = copy.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in ("objects", "packs", "graph", "branches", "refs"):
        subprocess.run(["cp", "-al", farm / name, partial / name], check=True)
    for name in ("state", "tmp"):
        (partial / name).mkdir(mode=0o700)
    (partial / "lock").touch(0o600)
    shutil.copy2(farm / "format", partial / "format")
    partial.rename(copy)


def without_packs(farm: Path, view: Path) -> None:
    """The same published files but for the graph and its packs."""
    view.mkdir(exist_ok=True)
    for name in ("objects", "branches", "refs"):
        (view / name).unlink(missing_ok=True)
        (view / name).symlink_to(farm / name)


# --- searches -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Step:
    """A build that was tested: was it here when it was chosen, and how long did it take to come?"""

    build: str
    sequence: int
    here: bool
    chosen: float
    brought: float = 0.0

    @property
    def seconds(self) -> float:
        """From the choice to the beginning of the checkout."""
        return self.brought - self.chosen


@dataclass(slots=True)
class Search:
    """One search: its steps, what the site sent, and whether it found the culprit."""

    steps: list[Step] = field(default_factory=list)
    sent: Traffic = field(default_factory=lambda: Traffic(0, 0))
    found: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    def see(self, line: str, now: float) -> None:
        """A line that the command printed."""
        words = line.split()
        if line.startswith("Waiting for "):
            self.waiting = now
        elif line.startswith("Next: "):
            build = line[line.index("(") + 1 :][:9]
            here = "it is here" in line and not self.waiting
            self.steps.append(Step(build, int(words[2]), here, self.waiting or now))
            self.waiting = 0.0
        elif line.startswith("checking out ") and not self.steps[-1].brought:
            self.steps[-1].brought = now
        elif line.startswith("First bad build: "):
            self.found = int(words[4])

    @property
    def waits(self) -> int:
        """Tests for which a build had to be fetched first."""
        return sum(not step.here for step in self.steps)

    @property
    def short(self) -> int:
        """Those of them that it didn't take long for."""
        return sum(not step.here and step.seconds < SHORT for step in self.steps)


class Tester:
    """A machine with both ends of the line deployed, or with others of its builds."""

    def __init__(
        self, work: Path, sites: Sites, megabits: int, ends: Sequence[str] = BOTH_ENDS
    ) -> None:
        self.ends = ends
        self.base = work / ("tester" if ends == BOTH_ENDS else "tester-bad")
        self.client = work / "client"
        self.test = work / "test.py"
        self.test.write_text(TEST)
        self.sites = sites
        self.prefix = behind(megabits)

    def prepare(self, reference: Path) -> None:
        """Deploy the ends, unless an earlier run did. Objects are linked from `reference`, which
        pairs.py makes, if it is there.
        """
        if self.base.exists():
            return
        partial = self.base.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        repository = prepare_sysroot(partial).repository
        add_remote(repository, Remote("o", self.sites.url("packs"), "unsigned"))
        pull = [HACKTREE, "--sysroot", str(partial), "pull", "--no-deltas"]
        if reference.exists():
            pull += ["--reference", str(reference)]
        for end in self.ends:
            report(f"a tester deploys {end}")
            measure(*pull, end)
        (partial / ".ht/state/bandwidth").unlink(missing_ok=True)
        partial.rename(self.base)

    def search(
        self, site: str, line: Line, options: Sequence[str], seconds: Mapping[str, float]
    ) -> Search:
        """Search the line from the start on a copy of the machine."""
        self._copy(site)
        before = self.sites.sent(site)
        done, begun = Search(), time.monotonic()
        ends = ("--good", f"{line.branch}~{line.builds - 1}", "--bad", line.branch)
        self._run(done, "start", line.branch, *ends, "--no-deploy", *options)
        test = (sys.executable, str(self.test), json.dumps(seconds), line.culprit, line.good)
        self._run(done, "run", "--host", "--", *test)
        done.seconds = time.monotonic() - begun
        done.sent = self.sites.traffic(site, before)
        self._run(done, "reset")
        return done

    def loop(self, site: str, line: Line, seconds: Mapping[str, float] | None) -> Search:
        """As `search`, by bisect_loop.py; `seconds`: by commit, None to bring nothing ahead."""
        self._copy(site)
        before = self.sites.sent(site)
        done, begun = Search(), time.monotonic()
        words = (line.branch, str(line.builds), str(line.first_bad))
        told = "-" if seconds is None else json.dumps(seconds)
        command = [sys.executable, "-m", "bench.bisect_loop", str(self.client / ".ht"), "o"]
        printed = subprocess.run(
            [*self.prefix, *command, *words, told], stdout=subprocess.PIPE, check=True
        ).stdout
        done.seconds = time.monotonic() - begun
        done.sent = self.sites.traffic(site, before)
        result = json.loads(printed)
        done.found = result["found"]
        done.steps = [
            Step(commit, sequence, here, 0.0, took)
            for commit, sequence, here, took in result["steps"]
        ]
        return done

    def _copy(self, site: str) -> None:
        """Objects and roots are linked: nothing is ever written into them."""
        shutil.rmtree(self.client, ignore_errors=True)
        (self.client / ".ht").mkdir(parents=True)
        for path in (self.base / ".ht").iterdir():
            how = "-al" if path.name in ("objects", "roots") else "-a"
            subprocess.run(["cp", how, path, self.client / ".ht"], check=True)
        subprocess.run(["cp", "-a", self.base / "gnomeos", self.client], check=True)
        remote = f'url = "{self.sites.url(site)}"\ntrust = "unsigned"\n'
        (self.client / ".ht/state/remotes/o.toml").write_text(remote)
        os.sync()

    def _run(self, done: Search, *words: str) -> None:
        command = [*self.prefix, HACKTREE, "--sysroot", str(self.client), "bisect", *words]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        assert process.stdout is not None
        for text in process.stdout:
            done.see(text, time.monotonic())
        if process.wait() != 0:
            sys.exit(f"{' '.join(command)} exited with {process.returncode}")


def compare(tester: Tester, line: Line) -> None:
    """The searches of one line."""
    print(f"{line.culprit}: {line.builds} builds, the first bad one is {line.first_bad}")
    orders: dict[str, tuple[str, ...]] = {"": ()}
    if tester.ends == BOTH_ENDS:
        loop = tester.loop("packs", line, None)
        tell("loop", loop, line)
        tell("loop+", tester.loop("packs", line, seconds_of(loop)), line)
    else:
        orders["-later"] = ("--no-old-end-first",)
    searches: dict[str, Search] = {}
    for order, options in orders.items():
        cost = tester.search("packs", line, ("--no-prefetch", *options), {})
        tell(f"cost{order}", cost, line)
        ahead = tester.search("packs", line, options, seconds_of(cost))
        tell(f"ahead{order}", ahead, line)
        searches |= {f"cost{order}": cost, f"ahead{order}": ahead}
    strict = tester.search("singly", line, STRICT, {})
    tell("strict", strict, line)
    for name, search in searches.items():
        print(f"  {name} / strict: {search.sent.bytes / strict.sent.bytes:.3f} of the bytes")


def seconds_of(search: Search) -> dict[str, float]:
    """How long it took to bring each build, by commit; under "" the mean."""
    times = {step.build: step.seconds for step in search.steps}
    return {**times, "": statistics.mean(times.values())}


def tell(name: str, search: Search, line: Line) -> None:
    """Print one search; exits if it found another build."""
    steps = search.steps
    shown = (f"{s.sequence}:{'here' if s.here else f'{s.seconds:.1f}s'}" for s in steps)
    print(
        f"  {name:<7} {len(steps)} tests, {search.sent}, {search.seconds:.0f} s, "
        f"{len(steps) - search.waits} of {len(steps)} builds were here"
        f"{f' and {search.short} short' if search.short else ''}: {' '.join(shown)}",
        flush=True,
    )
    if search.found != line.first_bad:
        sys.exit(f"{name}: build {search.found} was found, not {line.first_bad}")


def main() -> int:
    """Compare; exit status 0 done, 1 failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dir", type=Path, default=default_directory(), help="default: %(default)s"
    )
    parser.add_argument(
        "--rate", type=int, default=100, metavar="MBIT", help="0: loopback (default: 100)"
    )
    parser.add_argument(
        "--only-bad-end", action="store_true", help="the tester has the newest build alone"
    )
    parser.add_argument("culprits", nargs="*", default=CULPRITS, help=f"default: {CULPRITS}")
    args = parser.parse_args()
    directory: Path = args.dir.absolute()
    work = directory / "bisect"
    work.mkdir(exist_ok=True)
    farm = work / "farm"
    copy_farm(make_builds(directory), farm)
    without_packs(farm, work / "singly")
    lines = [make_line(open_repository(farm), culprit) for culprit in args.culprits]
    sites = Sites(work, HOST, PORT, {"packs": farm, "singly": work / "singly"})
    with linked(), sites.served():
        tester = Tester(work, sites, args.rate, BAD_END if args.only_bad_end else BOTH_ENDS)
        tester.prepare(directory / "builds/reference")
        for line in lines:
            compare(tester, line)
    shutil.rmtree(tester.client)
    return 0


if __name__ == "__main__":
    sys.exit(main())
