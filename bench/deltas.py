"""Delta packs and ostree's static deltas side by side; writes compare/deltas.md and deltas.json.

As root, with Debian's ostree, nginx and iproute2. Measurements (`--only`; all need the first):

    generate   the packs of the steps 1→2 and 0→1
    pull       both steps from nginx: on loopback, and at 10, 100 and 1,000 Mbit/s
    route      0→2 over the two steps' packs, as no pack leads there directly
    pairs      any two of the 64 builds of builds.py, both directions and across branches
    files      single files against bsdiff and xz
    peers      whole-tree peers: one tar through zstd or xdelta3, apt's packages

Memory is the peak of all of a command's processes together (PSS). ostree's bytes are given as a
client without faults would fetch them (`clean`), and as Debian's 2022.7 really did: it fetches
objects singly that its delta holds. Every pull is in compare/deltas-pulls.json.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import files, pairs, peers
from bench.harness import HACKTREE, Cost, Table, hacktree_json, measure, measure_together, median
from bench.network import HOST, Sites, Traffic, behind, linked
from bench.ostree import Ostree
from bench.trees import default_directory

STEPS = ((1, 2), (0, 1))
PREFERENCES = ("auto", "bytes", "time")
RATES = (0, 10, 100, 1000)
GENERATE_TARGET, MEMORY_TARGET = "≤ 1.0", 400e6
BYTES_TARGETS = {
    ((1, 2), "bytes"): "≤ 0.40", ((1, 2), "time"): "≤ 0.95", ((0, 1), "bytes"): "≤ 0.48",
}  # fmt: skip
TURNS = 3
"""Pulls of which the median counts; one at less than 1,000 Mbit/s, where the link decides."""


@dataclass(frozen=True, slots=True)
class Pull:
    """One kind of pull, measured: `tool` is ostree or what hacktree prefers; 0 Mbit/s: loopback."""

    step: tuple[int, int]
    megabits: int
    tool: str
    cost: Cost
    traffic: Traffic


def revision(number: int) -> str:
    """Build 0, 1 or 2 of the branch."""
    return f"builds~{2 - number}" if number < 2 else "builds"


class Deltas:
    """The measurements, in the order in which they build on one another."""

    def __init__(
        self, trees: Path, sites: Sites, turns: int, rates: Iterable[int], place: Path | None = None
    ) -> None:
        self.trees = trees
        self.work = trees / "compare"
        self.place = place or self.work
        self.packs = self.work / "packs"
        self.ostree = Ostree(self.work / "ostree")
        self.sites = sites
        self.turns = turns
        self.rates = tuple(rates)
        self.table = Table()

    def repositories(self) -> None:
        """Both archives with the three builds, where compare.py hasn't left them."""
        self.work.mkdir(exist_ok=True)
        farm = self.work / "farm"
        if not farm.exists():
            measure(HACKTREE, "--repo", str(farm), "init")
            for number in (0, 1, 2):
                measure(HACKTREE, "--repo", str(farm), "commit", "builds",
                        str(self.trees / str(number)), "-s", str(number))  # fmt: skip
        self.ostree.commit(self.trees)

    def generate(self) -> None:
        """Both steps' packs, in a copy of the archive without any (nor anything cached)."""
        shutil.rmtree(self.packs, ignore_errors=True)
        subprocess.run(["cp", "-al", str(self.work / "farm"), str(self.packs)], check=True)
        for name in ("packs", "graph", "state", "cache"):
            shutil.rmtree(self.packs / name, ignore_errors=True)
        (self.packs / "state").mkdir()
        for old, new in STEPS:
            peer = measure_together(*self.ostree.generate(old, new))
            ours = measure_together(
                HACKTREE, "--repo", str(self.packs), "delta", "generate",
                "--from", revision(old), "--to", revision(new),
            )  # fmt: skip
            self.table.compare(f"generating {old}→{new}", ours, peer, GENERATE_TARGET)
        self.ostree.summarize()
        print(json.dumps(hacktree_json(self.packs, "delta", "list"), indent=2))

    def pull(self) -> None:
        """Both steps at every speed."""
        pulls: list[Pull] = []
        with linked(), self.sites.served():
            for step in STEPS:
                with self.clients(step[0]) as (ours, theirs):
                    for megabits in self.rates:
                        pulls += self.pulls(step, megabits, ours, theirs)
        path = self.work / "deltas-pulls.json"
        path.write_text(json.dumps([asdict(pull) for pull in pulls], indent=1))
        for step in STEPS:
            self.tell(step, [pull for pull in pulls if pull.step == step])

    @contextmanager
    def clients(self, number: int) -> Iterator[tuple[Path, Path]]:
        """A client of each that has that build, in bare mode; ours by the packs that lead there.

        So it is no beginner: whether its libraries compress as the farm's do is known.
        """
        ours, theirs = self.place / "delta-client", self.place / "delta-ostree-client"
        self.clear(ours, theirs)
        pairs.new_client(ours, self.sites.url("packs"))
        for build in range(number + 1):
            measure(HACKTREE, "--repo", str(ours), "pull", revision(build))
        self.ostree.new_client(theirs, self.sites.url("ostree-deltas"), number)
        yield ours, theirs
        self.clear(ours, theirs)

    def pulls(self, step: tuple[int, int], rate: int, ours: Path, theirs: Path) -> Iterator[Pull]:
        """One speed: hacktree with each preference and ostree, by turns."""
        through = behind(rate)
        turns = self.turns if rate in (0, 1000) else 1
        found: dict[str, list[tuple[Cost, Traffic]]] = {}
        copies: list[Path] = []
        for turn in range(turns):
            for tool in (*PREFERENCES, "ostree"):
                source, site = (theirs, "ostree-deltas") if tool == "ostree" else (ours, "packs")
                copy = self.place / f"delta-copy-{turn}-{tool}"
                self.clear(copy)
                copies.append(copy)
                subprocess.run(["cp", "-al", str(source), str(copy)], check=True)
                command: tuple[str, ...] = (
                    HACKTREE, "--repo", str(copy), "pull", "--prefer", tool, revision(step[1]),
                )  # fmt: skip
                if tool == "ostree":
                    command = self.ostree.pull(copy, step[1])
                os.sync()  # What the tool before wrote would be written during this one's turn.
                before = self.sites.sent(site)
                cost = measure_together(*through, *command)
                traffic = self.sites.traffic(site, before)
                found.setdefault(tool, []).append((cost, traffic))
                print(f"  {step[0]}→{step[1]} {rate or '∞'} Mbit/s {tool}: {cost}, {traffic}")
        # Deleting slows what ext4 creates next: not in between.
        self.clear(*copies)
        for tool, results in found.items():
            by_bytes = sorted(results, key=lambda result: result[1].bytes)
            traffic = by_bytes[len(by_bytes) // 2][1]
            yield Pull(step, rate, tool, median([cost for cost, _ in results]), traffic)

    def tell(self, step: tuple[int, int], pulls: list[Pull]) -> None:
        """Rows of one step."""
        name = f"{step[0]}→{step[1]}"
        clean = self.ostree.clean(*step)
        by = {(pull.megabits, pull.tool): pull for pull in pulls}
        first = self.rates[0]
        really = by[first, "ostree"].traffic
        peer = f"clean {clean} (really {really})"
        for tool in PREFERENCES:
            sent = by[first, tool].traffic
            target = BYTES_TARGETS.get((step, tool), "")
            self.table.add(
                f"pull {name} `{tool}`: requests, bytes", str(sent), peer,
                sent.bytes / clean.bytes, target,
            )  # fmt: skip
        requests = max(by[first, tool].traffic.requests for tool in PREFERENCES)
        self.table.add(f"pull {name}: most requests", str(requests), str(clean.requests),
                       requests / 8, "≤ 1 (8)")  # fmt: skip
        if 10 in self.rates:
            auto, frugal = (by[10, tool].traffic for tool in ("auto", "bytes"))
            self.table.add(f"pull {name} `auto` at 10 Mbit/s", str(auto), f"`bytes`: {frugal}",
                           auto.bytes / frugal.bytes, "1")  # fmt: skip
        for rate in self.rates:
            where = f"at {rate} Mbit/s" if rate else "on loopback"
            theirs = by[rate, "ostree"].cost
            for tool in PREFERENCES:
                cost = by[rate, tool].cost
                target = "≤ 0.7" if (rate, tool, step) == (0, "auto", (1, 2)) else ""
                self.table.compare(f"pull {name} `{tool}` {where}", cost, theirs, target)
                if target:
                    self.table.add("… its CPU", f"{cost.cpu:.2f} s", f"{theirs.cpu:.2f} s",
                                   cost.cpu / theirs.cpu, target)  # fmt: skip
                    self.table.add("… its memory", f"{cost.rss / 1e6:.0f} MB",
                                   f"{theirs.rss / 1e6:.0f} MB", cost.rss / MEMORY_TARGET,
                                   "≤ 1 (400 MB)")  # fmt: skip

    def route(self) -> None:
        """0→2 over build 1's tree, against ostree without a delta."""
        copy, peer = self.place / "delta-route", self.place / "delta-ostree-route"
        with linked(), self.sites.served(), self.clients(0) as (ours, theirs):
            self.clear(copy, peer)
            subprocess.run(["cp", "-al", str(theirs), str(peer)], check=True)
            before = self.sites.sent("ostree-deltas")
            whole = measure_together(*self.ostree.pull(peer, 2, "--disable-static-deltas"))
            objects = self.sites.traffic("ostree-deltas", before)
            for tool in PREFERENCES:
                subprocess.run(["cp", "-al", str(ours), str(copy)], check=True)
                before = self.sites.sent("packs")
                command = (HACKTREE, "--repo", str(copy), "pull", "--prefer", tool, revision(2))
                cost = measure_together(*command)
                sent = self.sites.traffic("packs", before)
                self.clear(copy)
                self.table.add(f"pull 0→2 `{tool}` without a pack 0→2", f"{sent}, {cost}",
                               f"{objects}, {whole}", sent.bytes / objects.bytes,
                               "≤ 0.30")  # fmt: skip
                self.table.add("… requests", str(sent.requests), str(objects.requests),
                               sent.requests / 16, "≤ 1 (16)")  # fmt: skip
            self.clear(peer)

    def pairs(self) -> None:
        """Any two of the 64 builds."""
        pairs.compare_pairs(self.trees, self.ostree, self.sites, self.table)

    def files(self) -> None:
        """Single files."""
        files.compare_files(self.trees, files.FILES, self.table)

    def peers(self) -> None:
        """Whole-tree peers against the packs' bytes."""
        edges = hacktree_json(self.packs, "delta", "list")
        assert isinstance(edges, list)
        for step in STEPS:
            ours = pack_bytes(self.packs, edges, *step)
            peers.compare_peers(self.trees, *step, ours, self.table)

    def clear(self, *paths: Path) -> None:
        """Remove what an earlier run or turn left."""
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)


def pack_bytes(repository: Path, edges: list[dict[str, object]], old: int, new: int) -> int:
    """The size of the pack between two builds."""
    roots = [pairs.root_of(repository, revision(number)).hex() for number in (old, new)]
    sizes = [edge["bytes"] for edge in edges if [edge["from"], edge["to"]] == roots]
    return int(str(sizes[0]))


def main() -> int:
    """Run the measurements and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("generate", "pull", "route", "pairs", "files", "peers")
    parser.add_argument("--dir", type=Path, default=default_directory(), help="of trees.py")
    parser.add_argument("--port", type=int, default=18090, help="and the two after it")
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--rates", nargs="*", type=int, default=RATES, help="Mbit/s; 0 loopback")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument(
        "--place", type=Path, metavar="DIR",
        help="for the clients: on ext4, a file system where nothing was deleted for five minutes "
        "(it passes over the inodes that were, which costs whoever creates files)",
    )  # fmt: skip
    args = parser.parse_args()
    work = args.dir / "compare"
    roots = {
        "packs": work / "packs", "ostree-deltas": work / "ostree",
        "pairs": args.dir / "builds/farm",
    }  # fmt: skip
    # An end of the program that removes the link and stops nginx.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    deltas = Deltas(
        args.dir, Sites(work, HOST, args.port, roots), args.turns, args.rates, args.place
    )
    deltas.repositories()
    steps: dict[str, Callable[[], None]] = {name: getattr(deltas, name) for name in names}
    for name in args.only:
        steps[name]()
    deltas.table.write(work / "deltas.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
