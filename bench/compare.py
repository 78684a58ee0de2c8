"""hacktree and ostree side by side on the real trees of trees.py; writes a table of ratios.

As root, with Debian's ostree and nginx. Read the ratios, not the seconds: both tools run in turn on
the same machine, which may be shared. `--only` picks measurements.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.harness import HACKTREE, Cost, Table, measure, median
from bench.network import Sites


class Bench:
    """The measurements, in the order in which they build on one another."""

    def __init__(self, trees: Path, work: Path, port: int) -> None:
        self.trees = trees
        self.work = work
        self.table = Table()
        self.compare = self.table.compare
        self.add = self.table.add
        roots = {"hacktree": work / "farm", "ostree": work / "ostree"}
        self.sites = Sites(work, "127.0.0.1", port, roots)

    def clear(self, *patterns: str) -> None:
        """Remove what an earlier run left."""
        for pattern in patterns:
            for path in self.work.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def farm(self, *words: str) -> tuple[str, ...]:
        """A hacktree command on the published repository."""
        return (HACKTREE, "--repo", str(self.work / "farm"), *words)

    def commit(self) -> None:
        """Archive commits of build 0, then 1 and 2; sizes."""
        measure(*self.farm("init"))
        measure("ostree", f"--repo={self.work}/ostree", "init", "--mode=archive")
        for number in (0, 1, 2):
            tree = str(self.trees / str(number))
            peer = measure(
                "ostree", f"--repo={self.work}/ostree", "commit", "-b", "builds",
                f"--tree=dir={tree}", "-s", str(number),
            )  # fmt: skip
            ours = measure(*self.farm("commit", "builds", tree, "-s", str(number)))
            target = "≤ 0.25" if number == 0 else ""
            self.compare(f"commit of build {number} into an archive", ours, peer, target)
            if number in (0, 2):
                sizes = _size(self.work / "farm"), _size(self.work / "ostree")
                self.add(
                    f"archive after build {number}", f"{sizes[0] / 1e6:.0f} MB",
                    f"{sizes[1] / 1e6:.0f} MB", sizes[0] / sizes[1], "≤ 0.97",
                )  # fmt: skip

    def recommit(self) -> None:
        """A bare repository: the same tree again, and checkouts by hard links."""
        tree, work = str(self.trees / "1"), self.work
        self.clear("bare", "ostree-bare", "checkout-*")
        ours = (HACKTREE, "--repo", str(work / "bare"))
        measure(*ours, "init", "--mode", "bare")
        measure("ostree", f"--repo={work}/ostree-bare", "init", "--mode=bare")
        peer_commit = (
            "ostree", f"--repo={work}/ostree-bare", "commit", "-b", "b", f"--tree=dir={tree}",
        )  # fmt: skip
        first = measure(*ours, "commit", "b", tree), measure(*peer_commit)
        self.compare("commit into a bare repository", *first, "")
        again = measure(*ours, "commit", "b", tree), measure(*peer_commit)
        self.compare("recommit of an unchanged tree", *again, "≤ 0.10")
        costs: dict[str, list[Cost]] = {"ours": [], "ostree": [], "cp": []}
        for turn in range(3):
            place = work / f"checkout-{turn}"
            place.mkdir()
            costs["ours"].append(measure(*ours, "checkout", "b", str(place / "ours")))
            costs["ostree"].append(
                measure("ostree", f"--repo={work}/ostree-bare", "checkout", "-H", "b",
                        str(place / "ostree"))
            )  # fmt: skip
            costs["cp"].append(measure("cp", "-al", str(place / "ours"), str(place / "cp")))
        ours_cost = median(costs["ours"])
        self.compare("checkout by hard links", ours_cost, median(costs["ostree"]), "≤ 1.2")
        self.compare("checkout against cp -al", ours_cost, median(costs["cp"]), "≤ 1.5")

    def pull(self) -> None:
        """Per-object pull of build 2 by a client that has build 1, from nginx."""
        work, ours, peer = self.work, self.work / "client", self.work / "ostree-client"
        self.clear("client*", "ostree-client*", "*.log")
        revision = subprocess.run(
            ["ostree", f"--repo={work}/ostree", "rev-parse", "builds^"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        with self.sites.served():
            measure(HACKTREE, "--repo", str(ours), "init", "--mode", "bare")
            url = self.sites.url("hacktree")
            measure(HACKTREE, "--repo", str(ours), "remote", "add", "o", url, "--unsigned")
            measure(HACKTREE, "--repo", str(ours), "pull", "builds~1")
            measure("ostree", f"--repo={peer}", "init", "--mode=bare")
            measure("ostree", f"--repo={peer}", "remote", "add", "--no-gpg-verify", "o",
                    self.sites.url("ostree"))  # fmt: skip
            measure("ostree", f"--repo={peer}", "pull", "--disable-static-deltas", "o",
                    f"builds@{revision}")  # fmt: skip
            costs: tuple[list[Cost], list[Cost]] = ([], [])
            for turn in range(3):
                mine, theirs = work / f"client-{turn}", work / f"ostree-client-{turn}"
                for source, copy in ((ours, mine), (peer, theirs)):
                    subprocess.run(["cp", "-al", str(source), str(copy)], check=True)
                before = self.sites.sent("hacktree"), self.sites.sent("ostree")
                costs[0].append(measure(HACKTREE, "--repo", str(mine), "pull", "builds"))
                costs[1].append(
                    measure("ostree", f"--repo={theirs}", "pull", "--disable-static-deltas",
                            "o", "builds")
                )  # fmt: skip
            ours_cost, peer_cost = median(costs[0]), median(costs[1])
            self.compare("per-object pull of build 1→2", ours_cost, peer_cost, "≤ 1.0")
            mine_sent = self.sites.traffic("hacktree", before[0])
            theirs_sent = self.sites.traffic("ostree", before[1])
            self.add(
                "the same: requests and bytes", str(mine_sent), str(theirs_sent),
                mine_sent.bytes / theirs_sent.bytes, "",
            )  # fmt: skip
            before = self.sites.sent("hacktree"), []
            idle = median(
                [measure(HACKTREE, "--repo", str(mine), "pull", "builds") for _ in range(5)]
            )
            requests = self.sites.traffic("hacktree", before[0]).requests / 5
            self.add(
                "pull with nothing new", f"{requests:.0f} requests, {idle}", "—",
                idle.wall / 0.4, "≤ 1 (0.4 s), ≤ 3 requests",
            )  # fmt: skip

    def fsck(self) -> None:
        """Everything, in the published repositories."""
        ours = measure(*self.farm("fsck"))
        peer = measure("ostree", f"--repo={self.work}/ostree", "fsck")
        self.compare("fsck", ours, peer, "≤ 1.0")

    def help(self) -> None:
        """Start-up time."""
        cost = median([measure(HACKTREE, "--help") for _ in range(9)])
        self.add("hacktree --help", str(cost), "—", cost.wall / 0.12, "≤ 1 (0.12 s)")

    def scale(self) -> None:
        """Time and memory for 30,000, 100,000 and 300,000 synthetic files."""
        self.clear("synthetic-*", "scale-*")
        base: tuple[Cost, Cost] | None = None
        for count in (30_000, 100_000, 300_000):
            tree = self.work / f"synthetic-{count}"
            _synthesize(tree, count)
            repository = str(self.work / f"scale-{count}")
            measure(HACKTREE, "--repo", repository, "init", "--mode", "bare")
            commit = measure(HACKTREE, "--repo", repository, "commit", "b", str(tree))
            checkout = measure(HACKTREE, "--repo", repository, "checkout", "b", f"{tree}-checkout")
            base = base or (commit, checkout)
            for what, cost, first in (("commit", commit, base[0]), ("checkout", checkout, base[1])):
                factor = cost.wall / first.wall / (count / 30_000)
                self.add(f"{what} of {count} files", str(cost), str(first), factor, "≈ 1")


def _size(path: Path) -> int:
    return sum(
        os.lstat(os.path.join(directory, name)).st_size
        for directory, _, names in os.walk(path / "objects")
        for name in names
    )


def _synthesize(tree: Path, count: int) -> None:
    for number in range(count):
        if number % 100 == 0:
            directory = tree / f"{number // 10_000}" / f"{number // 100}"
            directory.mkdir(parents=True)
        (directory / f"file-{number}").write_bytes(b"%d\n" % number * 40)


def main() -> int:
    """Run the measurements and write results.md and results.json into the bench directory."""
    home = Path(os.environ.get("HACKTREE_BENCH_DIR", Path.home() / ".cache/hacktree-bench"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=home, help="where trees.py put the trees")
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--only", nargs="*", help="commit recommit pull fsck help scale")
    args = parser.parse_args()
    work = args.dir / "compare"
    names = args.only or ["commit", "recommit", "pull", "fsck", "help", "scale"]
    if "commit" in names:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.dir, work, args.port)
    steps: dict[str, Callable[[], None]] = {
        "commit": bench.commit, "recommit": bench.recommit, "pull": bench.pull,
        "fsck": bench.fsck, "help": bench.help, "scale": bench.scale,
    }  # fmt: skip
    for name in names:
        steps[name]()
    bench.table.write(work / "results.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
