"""What the benchmarks share: run a command and say what it cost, and a table of ratios."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HACKTREE = str(Path(sys.executable).parent / "hacktree")
INTERVAL, SHARE = 0.05, 0.1
"""Seconds between two looks at the memory of all processes; more if looking took over a tenth."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One finished command: seconds of wall and CPU time (with its descendants'), bytes of memory.

    Memory is the largest process's peak RSS from `measure`, and the peak of all processes together
    (PSS: pages that they share count once) from `measure_together`.
    """

    wall: float
    cpu: float
    rss: int

    def __str__(self) -> str:
        return f"{self.wall:.2f} s ({self.cpu:.2f} s CPU, {self.rss / 1e6:.0f} MB)"


def measure(*command: str, cwd: Path | None = None) -> Cost:
    """Run a command to its end; exits when it fails."""
    return _run(command, cwd, lambda pid: None)


def measure_together(*command: str, cwd: Path | None = None) -> Cost:
    """The same with the memory of all of its processes together, looked at every 50 ms."""
    peak = 0
    ended = threading.Event()

    def watch(pid: int) -> None:
        nonlocal peak
        pause = INTERVAL
        while not ended.wait(pause):
            looked = time.thread_time()
            peak = max(peak, sum(map(_pss, _descendants(pid))))
            pause = max(INTERVAL, (time.thread_time() - looked) / SHARE)

    threads: list[threading.Thread] = []

    def start(pid: int) -> None:
        threads.append(threading.Thread(target=watch, args=(pid,)))
        threads[0].start()

    try:
        cost = _run(command, cwd, start)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    # Whoever ends before the first look has only the kernel's figure.
    return Cost(cost.wall, cost.cpu, peak or cost.rss)


def _run(command: Sequence[str], cwd: Path | None, started: Callable[[int], None]) -> Cost:
    """What earlier commands left to be written is written first: it is not this one's cost."""
    os.sync()
    begun = time.monotonic()
    with open(os.devnull, "wb") as null:
        process = subprocess.Popen(command, stdout=null, stderr=subprocess.PIPE, cwd=cwd)
        assert process.stderr is not None
        started(process.pid)
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} exited with {process.returncode}: {errors.decode()}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _descendants(pid: int) -> list[int]:
    """The process and everything below it, as /proc has it now. Pids are taken to ascend."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) > pid:
            try:
                stat = Path("/proc", name, "stat").read_bytes()
            except OSError:
                continue
            parent = int(stat[stat.rindex(b")") + 2 :].split()[1])
            children.setdefault(parent, []).append(int(name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _pss(pid: int) -> int:
    """Bytes of memory, a page's share of it where others have it too; 0 when it is gone."""
    try:
        for line in Path("/proc", str(pid), "smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def median(costs: Sequence[Cost]) -> Cost:
    """Each figure's median."""
    return Cost(
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.cpu for cost in costs),
        int(statistics.median(cost.rss for cost in costs)),
    )


def hacktree_json(repository: Path, *words: str) -> object:
    """What a command prints with --json; exits when it fails."""
    command = [HACKTREE, "--repo", str(repository), "--json", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} exited with {done.returncode}")
    return json.loads(done.stdout)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    ours: str
    peer: str
    ratio: float
    target: str


class Table:
    """Rows as they are measured."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def compare(self, what: str, ours: Cost, peer: Cost, target: str) -> None:
        """Add a row of wall time; CPU and peak RSS go into the cells."""
        self.add(what, str(ours), str(peer), ours.wall / peer.wall, target)

    def add(self, what: str, ours: str, peer: str, ratio: float, target: str) -> None:
        """Add a row and print it."""
        self.rows.append(Row(what, ours, peer, ratio, target))
        print(f"{what}: {ours} against {peer}: {ratio:.3f} (target {target})", flush=True)

    def write(self, path: Path) -> None:
        """A Markdown table at `path`, and the same as JSON beside it."""
        path.write_text("\n".join(_lines(self.rows)) + "\n")
        path.with_suffix(".json").write_text(json.dumps([asdict(r) for r in self.rows], indent=2))
        print(path.read_text())


def _lines(rows: Iterable[Row]) -> list[str]:
    lines = ["| what | hacktree | peer | ratio | target |", "|---|---|---|---|---|"]
    return lines + [
        f"| {r.what} | {r.ours} | {r.peer} | {r.ratio:.2f} | {r.target} |" for r in rows
    ]
