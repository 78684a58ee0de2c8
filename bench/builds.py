"""Cuts the three real trees of trees.py into 64 builds, a few package changes apart.

Branch `builds` (48) goes from tree 0 through tree 1 to tree 2; branch `testing` (16) takes the same
changes from tree 0 in the opposite order, several at a time, and stops before the last: no build of
one is a build of the other but where they start. In --dir:

    builds/farm     an archive repository with both branches
    builds/tree     the working tree; removed when done

The working tree is a farm of hard links to tree 0. Packages are unpacked over it and replace files,
never write into them, so that the trees stay as they are, and what a build doesn't change keeps its
ctime: `hacktree commit` doesn't read it again. Builds are the same in every run, commit ids too.
A second run goes on where the first one stopped, and needs no network: the packages are in debs/.
"""

import argparse
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bench.harness import HACKTREE, hacktree_json
from bench.trees import (
    MERGED_USR,
    Package,
    TreesError,
    default_directory,
    download,
    extract,
    load_plan,
    report,
    status_stanza,
)

FIRST_STEP, SECOND_STEP, TESTING = 41, 6, 16
"""Builds of tree 0→1, of 1→2, and of the other branch; with the first one, 64."""

BRANCHES = ("builds", "testing")
EPOCH, HOUR = 1_790_000_000, 3_600
"""The first build's time; the others follow hourly."""


@dataclass(frozen=True, slots=True)
class Build:
    """One build: its branch, what is new in it, and all of its packages in order of their names."""

    branch: str
    subject: str
    packages: tuple[Package, ...]


# --- which builds -----------------------------------------------------------------------------


def changes(old: Sequence[Package], new: Sequence[Package]) -> list[tuple[str, ...]]:
    """The names of packages that differ, those of a kernel together as they need each other."""
    before, after = _by_name(old), _by_name(new)
    names = sorted(n for n in before | after if before.get(n) != after.get(n))
    kernel = tuple(name for name in names if name.startswith("linux-image-"))
    singles: list[tuple[str, ...]] = [(name,) for name in names if name not in kernel]
    return sorted([*singles, kernel]) if kernel else singles


def step(
    branch: str, old: Sequence[Package], new: Sequence[Package], order: Sequence[tuple[str, ...]],
    count: int,
) -> Iterator[Build]:  # fmt: skip
    """`count` builds that take the changes of `order`, about equally many each, from `new`."""
    current, after = _by_name(old), _by_name(new)
    for number in range(count):
        part = order[number * len(order) // count : (number + 1) * len(order) // count]
        names = list(itertools.chain(*part))
        for name in names:
            current.pop(name, None)
            if name in after:
                current[name] = after[name]
        packages = tuple(current[name] for name in sorted(current))
        yield Build(branch, " ".join(names), packages)


def all_builds(plan: Sequence[Sequence[Package]]) -> list[Build]:
    """The builds of both branches, in the order of their commits."""
    first, second, third = plan
    builds = [Build("builds", "base", tuple(first))]
    builds += step("builds", first, second, changes(first, second), FIRST_STEP)
    builds += step("builds", second, third, changes(second, third), SECOND_STEP)
    backwards = changes(first, third)[::-1]
    testing = step("testing", first, third, backwards, TESTING + 1)
    return builds + list(itertools.islice(testing, TESTING))


def _by_name(packages: Iterable[Package]) -> dict[str, Package]:
    return {package.name: package for package in packages}


# --- the working tree -------------------------------------------------------------------------


@functools.cache
def paths(deb: Path) -> tuple[str, ...]:
    """What a package holds, directories before what is in them, through the merged /usr."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as source:
        listed = subprocess.run(
            ["tar", "--list", "--quoting-style=literal"], stdin=source.stdout,
            stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
    found = (
        os.fsdecode(line).removeprefix("./").rstrip("/") for line in listed.stdout.split(b"\n")
    )
    merged = (f"usr/{path}" if path.split("/")[0] in MERGED_USR else path for path in found)
    return tuple(path for path in merged if path)


_stanza = functools.cache(status_stanza)


class WorkingTree:
    """One tree on disk, taken from build to build."""

    def __init__(self, root: Path, debs: Path) -> None:
        self.root = root
        self.debs = debs

    def start(self, tree: Path) -> None:
        """Become a farm of hard links to a tree."""
        shutil.rmtree(self.root, ignore_errors=True)
        subprocess.run(["cp", "-al", str(tree), str(self.root)], check=True)

    def move(self, old: Sequence[Package], new: Sequence[Package]) -> None:
        """Replace the packages that differ."""
        gone = [package for package in old if package not in new]
        fresh = [package for package in new if package not in old]
        kept = set(itertools.chain(*(self._paths(package) for package in fresh)))
        for package in gone:
            self._remove(path for path in self._paths(package) if path not in kept)
        for package in fresh:
            extract(self.debs / package.file_name, self.root, "--no-overwrite-dir")
        status = self.root / "var/lib/dpkg/status"
        partial = status.with_suffix(".partial")
        stanzas = (_stanza(self.debs / package.file_name) for package in new)
        partial.write_text("\n".join(stanzas), encoding="utf-8")
        shutil.copymode(status, partial)
        partial.replace(status)

    def _paths(self, package: Package) -> tuple[str, ...]:
        return paths(self.debs / package.file_name)

    def _remove(self, found: Iterable[str]) -> None:
        """Remove files, and directories that are empty then."""
        for path in sorted(found, reverse=True):
            place = self.root / path
            if not place.is_dir() or place.is_symlink():
                place.unlink(missing_ok=True)
            elif not any(place.iterdir()):
                place.rmdir()


# --- commits ----------------------------------------------------------------------------------


class BuildsError(Exception):
    """The builds are not what they should be; the message says why."""


def subjects(farm: Path, branch: str) -> list[str]:
    """Of a branch's builds, oldest first."""
    if branch not in cast(dict[str, str], hacktree_json(farm, "refs")):
        return []
    log = cast(list[dict[str, str]], hacktree_json(farm, "log", branch))
    return [entry["subject"] for entry in reversed(log)]


def commit_branch(farm: Path, trees: Path, first: Sequence[Package], builds: list[Build]) -> None:
    """Commit the builds of one branch that the repository lacks. `first` is tree 0's packages."""
    branch = builds[0].branch
    there = subjects(farm, branch)
    if there != [build.subject for build in builds[: len(there)]]:
        raise BuildsError(f"{farm} holds other builds: delete it")
    if len(there) == len(builds):
        return
    tree = WorkingTree(farm.parent / "tree", trees / "debs")
    tree.start(trees / "0")
    current: Sequence[Package] = builds[len(there) - 1].packages if there else first
    if current != first:
        tree.move(first, current)
    for number in range(len(there), len(builds)):
        build = builds[number]
        report(f"{branch} {number + 1} of {len(builds)}: {build.subject}")
        if build.packages != current:
            tree.move(current, build.packages)
        current = build.packages
        subprocess.run(
            [HACKTREE, "--repo", str(farm), "--quiet", "commit", branch, str(tree.root),
             "--subject", build.subject, "--timestamp", str(EPOCH + number * HOUR)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    shutil.rmtree(tree.root)


def check(farm: Path, revision: str, stamp: Path) -> None:
    """Raises unless the revision holds the files that a tree of trees.py does."""
    entries = cast(
        list[dict[str, str]], hacktree_json(farm, "ls", "--recursive", "--ids", revision)
    )
    ours = {entry["path"][1:]: entry["id"] for entry in entries if entry["kind"] == "file"}
    wanted = {path: content[1] for path, content in json.loads(stamp.read_text())["files"].items()}
    odd = sorted(path for path in ours | wanted if ours.get(path) != wanted.get(path))
    if odd:
        raise BuildsError(f"{revision} is not {stamp.stem}: {len(odd)} files, {odd[:9]}")


def make_builds(directory: Path) -> Path:
    """The repository with all builds, made or completed; needs the trees."""
    farm = directory / "builds/farm"
    plan = load_plan(directory / "plan.json")
    download(directory / "debs", itertools.chain(*plan))
    if not (farm / "format").exists():
        farm.parent.mkdir(exist_ok=True)
        subprocess.run([HACKTREE, "--repo", str(farm), "--quiet", "init"], check=True)
    builds = all_builds(plan)
    before = sum(len(subjects(farm, branch)) for branch in BRANCHES)
    for branch in BRANCHES:
        commit_branch(farm, directory, plan[0], [b for b in builds if b.branch == branch])
    if before < len(builds):
        check(farm, f"builds~{SECOND_STEP}", directory / "1.json")
        check(farm, "builds", directory / "2.json")
    return farm


def main() -> int:
    """Make the builds; exit status 0 done, 1 failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dir", type=Path, default=default_directory(), help="default: %(default)s"
    )
    args = parser.parse_args()
    started = time.monotonic()
    try:
        farm = make_builds(args.dir.absolute())
    except (BuildsError, TreesError, subprocess.CalledProcessError, OSError) as error:
        print(f"bench.builds: {error}", file=sys.stderr)
        return 1
    print(f"{farm}: {', '.join(f'{len(subjects(farm, b))} on {b}' for b in BRANCHES)}, "
          f"in {time.monotonic() - started:.0f} s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
