"""Whole-tree peers of a step: one tar of the changed files, and the packages that apt would fetch.

Their figures are kept in --dir/peers.json: zstd -19 and xdelta3 take minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from bench.harness import Table
from bench.trees import default_directory, load_plan, report

QUOTED = {
    "1→2": {
        "debdelta": "15.9 MB, 437 s to make",
        "deltarpm": "18.3 MB (rpms 83.2 MB), 31 s to make, 54 s to apply",
        "casync": "96.1 MB, 3,828 requests",
    },
    "0→1": {
        "debdelta": "6.03 MB for 84 packages of 163.9 MB, without firefox and the kernel",
        "deltarpm": "99.6 MB for 9 packages of 242.4 MB, 161 s to apply",
        "casync": "339.1 MB, 13,182 requests",
    },
}
"""Not run here: from an earlier measurement on the same step of slightly smaller trees."""


class Kept:
    """Figures by name in a JSON file, computed when they aren't there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, name: str, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Known or computed now."""
        figures = self._load()
        if name not in figures:
            report(name)
            computed = compute()
            figures = self._load() | {name: computed}
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(figures, indent=0))
            partial.replace(self.path)
        return figures[name]

    def _load(self) -> dict[str, dict[str, float]]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}


def changed(trees: Path, old: int, new: int) -> tuple[list[str], list[str]]:
    """A path of each content that only the old tree has, and of each that only the new one has."""
    before, after = (
        json.loads((trees / f"{number}.json").read_text())["files"] for number in (old, new)
    )
    return _only(before, after), _only(after, before)


def _only(mine: Mapping[str, list[str]], theirs: Mapping[str, list[str]]) -> list[str]:
    known = {content[1] for content in theirs.values()}
    paths: dict[str, str] = {}
    for path in sorted(mine):
        if mine[path][1] not in known:
            paths.setdefault(mine[path][1], path)
    return sorted(paths.values())


def _tar(tree: Path, paths: list[str], archive: Path) -> None:
    names = "\0".join(paths).encode()
    command = ["tar", "-C", str(tree), "--null", "--files-from=-"]
    subprocess.run([*command, "--create", "--file", str(archive)], input=names, check=True)


def tar_peers(trees: Path, old: int, new: int) -> dict[str, dict[str, float]]:
    """Bytes and seconds of each tool on tars of the contents that differ."""
    kept = Kept(trees / "peers.json")
    tools = {
        "zstd -19 --patch-from": ["zstd", "-q", "-19", "--long=31", "--patch-from=old", "new"],
        "zstd -12 --patch-from": ["zstd", "-q", "-12", "--long=31", "--patch-from=old", "new"],
        "xdelta3 -9": ["xdelta3", "-e", "-9", "-B1073741824", "-s", "old", "new"],
    }
    with tempfile.TemporaryDirectory(dir=trees) as place:
        work = Path(place)

        def run(command: list[str]) -> dict[str, float]:
            if not (work / "new").exists():
                for number, name, paths in zip(
                    (old, new), ("old", "new"), changed(trees, old, new), strict=True
                ):
                    _tar(trees / str(number), paths, work / name)
            started = time.monotonic()
            subprocess.run([*command, *_output(command[0])], cwd=work, check=True)
            seconds = round(time.monotonic() - started, 1)
            size = (work / "patch").stat().st_size
            (work / "patch").unlink()
            return {"bytes": size, "seconds": seconds}

        return {
            name: kept.get(f"{name} {old}→{new} {_plans(trees)}", partial(run, command))
            for name, command in tools.items()
        }


def _output(tool: str) -> list[str]:
    return ["-o", "patch"] if tool == "zstd" else ["patch"]


def _plans(trees: Path) -> str:
    """What tells these trees from those of another plan."""
    stamps = [json.loads((trees / f"{number}.json").read_text())["plan"] for number in (0, 1, 2)]
    return " ".join(stamp[:12] for stamp in stamps)


def apt_bytes(trees: Path, old: int, new: int) -> tuple[int, int]:
    """Number and bytes of the packages that apt fetches for the step."""
    plan = load_plan(trees / "plan.json")
    fresh = [package for package in plan[new] if package not in plan[old]]
    return len(fresh), sum(package.size for package in fresh)


def compare_peers(trees: Path, old: int, new: int, ours: int, table: Table) -> None:
    """A row for each whole-tree peer of a step; `ours` is the size of its pack."""
    step = f"{old}→{new}"
    mine = f"{ours / 1e6:.2f} MB"
    count, size = apt_bytes(trees, old, new)
    table.add(f"{step}: apt, {count} packages", mine, f"{size / 1e6:.1f} MB", ours / size, "")
    for name, figures in tar_peers(trees, old, new).items():
        text = f"{figures['bytes'] / 1e6:.2f} MB, {figures['seconds']:.0f} s"
        table.add(f"{step}: {name}", mine, text, ours / figures["bytes"], "")
    for name, quoted in QUOTED[step].items():
        table.add(
            f"{step}: {name} (quoted)", mine, quoted, ours / 1e6 / float(quoted.split()[0]), ""
        )


def main() -> int:
    """Compute and print the figures of the steps 1→2 and 0→1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dir", type=Path, default=default_directory())
    args = parser.parse_args()
    for old, new in ((1, 2), (0, 1)):
        count, size = apt_bytes(args.dir, old, new)
        print(f"{old}→{new}: apt, {count} packages: {size / 1e6:.1f} MB")
        for name, figures in tar_peers(args.dir, old, new).items():
            size_text = f"{figures['bytes'] / 1e6:.2f} MB"
            print(f"{old}→{new}: {name}: {size_text}, {figures['seconds']:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
