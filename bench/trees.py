"""Builds three successive real OS trees from Debian 12 packages, for the benchmarks.

A desktop system (GNOME, LibreOffice, Firefox, a signed kernel) as the closure of Depends and
Pre-Depends. Tree 0 takes the oldest version that the configured suites list of every package,
tree 1 the middle one, tree 2 the newest. No maintainer script runs and no package of this machine
changes. In --dir:

    plan.json       which version of which package each tree holds; delete it to plan afresh
    debs/           the packages, as downloaded
    0/ 1/ 2/        the trees, with their owners
    0.json ...      written last: the tree is complete; its files, sizes and SHA-256

A second run does only what is missing, and needs no network once every package is in debs/.
Needs root (for the owners) and apt, dpkg and tar. Exit status: 0 done, 1 failed, 2 usage.
"""

import argparse
import fcntl
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

KERNEL = "linux-image-amd64"
ROOTS = (
    "firefox-esr",
    "gdm3",
    "gnome-shell",
    "libreoffice-calc",
    "libreoffice-writer",
    "mesa-vulkan-drivers",
    "nautilus",
    "network-manager",
    "openssh-client",
    "openssh-server",
    "perl",
    "python3",
    "systemd",
    "systemd-sysv",
    "vim",
    KERNEL,
)
TREES = 3
MERGED_USR = ("bin", "sbin", "lib", "lib64")
BATCH = 50
ENVIRONMENT = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


class TreesError(Exception):
    """The trees cannot be built; the message says why."""


def report(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def output(*command: str) -> str:
    """What a command prints; raises CalledProcessError when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=ENVIRONMENT)
    return done.stdout.decode("utf-8")


# --- which packages: the plan ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one package, as a suite lists it."""

    name: str
    version: str
    architecture: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """The name under which `apt-get download` saves it."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


@dataclass(frozen=True, slots=True)
class Listed:
    """A package with what the closure needs to know of it."""

    package: Package
    depends: tuple[tuple[str, ...], ...]
    """All of these groups; of each group one of the names."""
    provides: tuple[str, ...]
    base: bool


FIELD = re.compile(r"^([A-Za-z0-9-]+): (.*)$", re.MULTILINE)
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")


def names(field: str, separator: str) -> tuple[str, ...]:
    """The package names of a relation field, without versions and architecture qualifiers."""
    found = (NAME.match(part.strip()) for part in field.split(separator))
    return tuple(match.group() for match in found if match)


def parse(stanza: str) -> Listed:
    """One stanza of a Packages index (deb-control(5); single-line fields only)."""
    fields = dict(FIELD.findall(stanza))
    relations = ", ".join(fields[key] for key in ("Pre-Depends", "Depends") if key in fields)
    return Listed(
        Package(
            fields["Package"],
            fields["Version"],
            fields["Architecture"],
            int(fields["Size"]),
            fields["SHA256"],
        ),
        tuple(names(group, "|") for group in relations.split(",") if group.strip()),
        names(fields.get("Provides", ""), ","),
        fields.get("Essential") == "yes" or fields.get("Priority") == "required",
    )


def compare(left: str, right: str) -> int:
    """Order of two versions, by dpkg's rules."""
    if left == right:
        return 0
    older = subprocess.run(["dpkg", "--compare-versions", left, "lt", right], check=False)
    return -1 if older.returncode == 0 else 1


class Catalog:
    """Every version of every package that the configured Debian suites list."""

    def __init__(self, stanzas: Iterable[str]) -> None:
        self._versions: dict[str, dict[str, Listed]] = {}
        self._providers: dict[str, set[str]] = {}
        self.base: set[str] = set()
        for stanza in stanzas:
            listed = parse(stanza)
            name = listed.package.name
            self._versions.setdefault(name, {})[listed.package.version] = listed
            for virtual in listed.provides:
                self._providers.setdefault(virtual, set()).add(name)
            if listed.base:
                self.base.add(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._versions)

    def able(self, group: tuple[str, ...]) -> list[str]:
        """The packages that satisfy a group of alternatives; providers when none is real."""
        real = [name for name in group if name in self._versions]
        able = real or [each for name in group for each in sorted(self._providers.get(name, ()))]
        if not able:
            raise TreesError(f"no package provides {' | '.join(group)}")
        return able

    def versions(self, name: str) -> list[Listed]:
        """Oldest first."""
        by_version = self._versions[name]
        ordered = sorted(by_version, key=functools.cmp_to_key(compare))
        return [by_version[version] for version in ordered]

    def take(self, name: str, tree: int) -> Listed:
        """The oldest, middle or newest version."""
        versions = self.versions(name)
        return versions[(0, len(versions) // 2, -1)[tree]]


def read_catalog() -> Catalog:
    """The lists that apt has, of Debian only."""
    wanted = ("Created-By: Packages", "Origin: Debian")
    lists = output("apt-get", "indextargets", "--format", "$(FILENAME)", *wanted).split()
    if not lists:
        raise TreesError("apt has no list of Debian packages: check its sources")
    text = output("/usr/lib/apt/apt-helper", "cat-file", *lists)
    return Catalog(stanza for stanza in text.split("\n\n") if stanza.strip())


def closure(catalog: Catalog, tree: int, fixed: Mapping[str, Listed]) -> list[Package]:
    """The packages of a tree. `fixed` overrides the choice of a version.

    A group of alternatives waits until everything else is resolved: it adds nothing when one of
    them is in the tree anyway (the first may conflict with that one), else its first.
    """
    taken: dict[str, Listed] = {}
    wanted = sorted(catalog.base.union(ROOTS), reverse=True)
    waiting: deque[list[str]] = deque()
    while wanted or waiting:
        if not wanted:
            group = waiting.popleft()
            if taken.keys().isdisjoint(group):
                wanted.append(group[0])
            continue
        name = wanted.pop()
        if name not in taken:
            taken[name] = fixed.get(name) or catalog.take(name, tree)
            for able in map(catalog.able, taken[name].depends):
                if len(able) == 1:
                    wanted += able
                else:
                    waiting.append(able)
    return [taken[name].package for name in sorted(taken)]


def kernel_before_newest(catalog: Catalog) -> Listed:
    """The metapackage, made to depend on the last kernel but one.

    A kernel's version is in its package's name, and the suites list fewer metapackages than
    kernels. With this choice the step to tree 2 is a daily build with a kernel update. (The
    stanza in tree 1's dpkg status still names the kernel that the package was built for.)
    """
    metas = catalog.versions(KERNEL)
    newest = next(group[0] for group in metas[-1].depends if group[0].startswith("linux-image-"))
    start, _, flavour = newest.rsplit("-", 2)
    family = re.compile(rf"{re.escape(start)}-\d+-{re.escape(flavour)}")
    kernels = [catalog.versions(name)[-1] for name in catalog if family.fullmatch(name)]
    by_version = functools.cmp_to_key(compare)
    kernels.sort(key=lambda kernel: by_version(kernel.package.version))
    order = [kernel.package.name for kernel in kernels]
    kernel = kernels[order.index(newest) - 1]
    older = [m for m in metas if compare(m.package.version, kernel.package.version) <= 0]
    return replace(older[-1], depends=((kernel.package.name,),))


def make_plan(catalog: Catalog) -> list[list[Package]]:
    middle = {KERNEL: kernel_before_newest(catalog)}
    return [closure(catalog, tree, middle if tree == 1 else {}) for tree in range(TREES)]


def load_plan(path: Path) -> list[list[Package]]:
    """The plan made by an earlier run, or a new one from what the suites list today."""
    if not path.exists():
        report("planning")
        subprocess.run(["apt-get", "-qq", "update"], check=True, env=ENVIRONMENT)
        plan = make_plan(read_catalog())
        write_json(path, [[asdict(package) for package in tree] for tree in plan])
    return [[Package(**fields) for fields in tree] for tree in json.loads(path.read_text())]


# --- the packages' files ----------------------------------------------------------------------


def write_json(path: Path, value: object) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=0))
    partial.replace(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_intact(deb: Path, package: Package) -> bool:
    return deb.is_file() and deb.stat().st_size == package.size and sha256(deb) == package.sha256


def fetch(debs: Path, batch: Sequence[Package]) -> None:
    """Downloads the packages into `debs`, through a directory that apt's own user may write."""
    wanted = [f"{package.name}={package.version}" for package in batch]
    command = ["apt-get", "-qq", "-o", "Acquire::Retries=3", "download", *wanted]
    with tempfile.TemporaryDirectory() as landing:
        shutil.chown(landing, "_apt")
        done = subprocess.run(command, cwd=landing, check=False, env=ENVIRONMENT, stdout=sys.stderr)
        if done.returncode != 0:
            raise TreesError(
                "apt-get could not download; run again to go on, or delete plan.json when the "
                "suites no longer list a version"
            )
        for package in batch:
            file = Path(landing, package.file_name)
            if not is_intact(file, package):
                raise TreesError(f"{package.file_name} is not what the suite listed")
            shutil.move(file, debs / package.file_name)


def download(debs: Path, packages: Iterable[Package]) -> None:
    """Fetches what `debs` does not hold intact."""
    debs.mkdir(parents=True, exist_ok=True)
    missing = [each for each in packages if not is_intact(debs / each.file_name, each)]
    if missing:
        size = sum(package.size for package in missing)
        report(f"downloading {len(missing)} packages, {size / 1e6:.0f} MB")
    for start in range(0, len(missing), BATCH):
        fetch(debs, missing[start : start + BATCH])
        report(f"  {min(start + BATCH, len(missing))} of {len(missing)}")


# --- the trees --------------------------------------------------------------------------------


def extract(deb: Path, root: Path, *options: str) -> None:
    """Unpacks a package as dpkg would: through the symbolic links of the merged /usr."""
    tar = ["tar", "--extract", "--directory", str(root), "--keep-directory-symlink"]
    tar += ["--preserve-permissions", "--same-owner", "--numeric-owner", *options]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as source:
        subprocess.run(tar, stdin=source.stdout, check=True, env=ENVIRONMENT)
    if source.returncode != 0:
        raise TreesError(f"dpkg-deb cannot read {deb}")


def status_stanza(deb: Path) -> str:
    """The package's control stanza as /var/lib/dpkg/status holds it."""
    first, rest = output("dpkg-deb", "--field", str(deb)).split("\n", 1)
    return f"{first}\nStatus: install ok installed\n{rest.rstrip()}\n"


def populate(root: Path, debs: Path, packages: Sequence[Package]) -> None:
    """Makes a whole tree in the empty directory `root`."""
    root.chmod(0o755)
    for name in MERGED_USR:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        extract(debs / package.file_name, root)
    status = root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    stanzas = (status_stanza(debs / package.file_name) for package in packages)
    status.write_text("\n".join(stanzas), encoding="utf-8")


class Content(NamedTuple):
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Tree:
    """What a complete tree holds; `files` by path, regular files only."""

    packages: int
    directories: int
    others: int
    seconds: float
    files: dict[str, Content]


def survey(root: Path, packages: int, started: float) -> Tree:
    """Reads every file of the tree once."""
    files: dict[str, Content] = {}
    directories = others = 0
    for folder, subfolders, entries in os.walk(root):
        for name in itertools.chain(subfolders, entries):
            path = Path(folder, name)
            info = path.lstat()
            if stat.S_ISREG(info.st_mode):
                files[str(path.relative_to(root))] = Content(info.st_size, sha256(path))
            elif stat.S_ISDIR(info.st_mode):
                directories += 1
            else:
                others += 1
    return Tree(packages, directories, others, round(time.monotonic() - started, 1), files)


def build(directory: Path, number: int, packages: Sequence[Package]) -> Tree:
    """Tree `number`, from its stamp when an earlier run completed it from the same plan."""
    stamp, root = directory / f"{number}.json", directory / str(number)
    digest = hashlib.sha256(repr(packages).encode()).hexdigest()
    if stamp.exists() and root.is_dir():
        fields = json.loads(stamp.read_text())
        if fields.pop("plan") == digest:
            fields["files"] = {path: Content(*pair) for path, pair in fields["files"].items()}
            return Tree(**fields)
    stamp.unlink(missing_ok=True)
    download(directory / "debs", packages)
    report(f"building tree {number}")
    started = time.monotonic()
    partial = directory / f"{number}.partial"
    for leftover in (partial, root):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir()
    populate(partial, directory / "debs", packages)
    partial.rename(root)
    tree = survey(root, len(packages), started)
    write_json(stamp, {"plan": digest, **asdict(tree)})
    return tree


# --- the summary ------------------------------------------------------------------------------


def summarize_tree(tree: Tree) -> dict[str, int | float]:
    return {
        "packages": tree.packages,
        "files": len(tree.files),
        "bytes": sum(content.size for content in tree.files.values()),
        "directories": tree.directories,
        "symlinks": tree.others,
        "build_seconds": tree.seconds,
    }


def summarize_step(old: Tree, new: Tree) -> dict[str, int]:
    """What a client that has `old` lacks of `new`; contents are counted once each."""
    known = set(old.files.values())
    fresh = {path: content for path, content in new.files.items() if content not in known}
    return {
        "new_contents": len(set(fresh.values())),
        "new_bytes": sum(content.size for content in set(fresh.values())),
        "files_changed": sum(path in old.files for path in fresh),
    }


def changed_packages(old: Sequence[Package], new: Sequence[Package]) -> list[dict[str, str]]:
    """Each with its two versions, empty where the tree does not hold it."""
    before = {package.name: package.version for package in old}
    after = {package.name: package.version for package in new}
    return [
        {"name": name, "old": before.get(name, ""), "new": after.get(name, "")}
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    ]


def print_summary(trees: Sequence[Tree], plan: Sequence[Sequence[Package]]) -> None:
    for number, tree in enumerate(trees):
        it = summarize_tree(tree)
        print(
            f"tree {number}: {it['packages']} packages, {it['files']:,} files, "
            f"{it['bytes'] / 1e6:,.0f} MB, built in {it['build_seconds']:.0f} s"
        )
    for number, (old, new) in enumerate(itertools.pairwise(trees)):
        step = summarize_step(old, new)
        print(
            f"step {number}->{number + 1}: {step['new_contents']:,} new file contents "
            f"({step['files_changed']:,} at a path that was there), "
            f"{step['new_bytes'] / 1e6:,.0f} MB, "
            f"{len(changed_packages(plan[number], plan[number + 1]))} packages changed"
        )


def as_json(trees: Sequence[Tree], plan: Sequence[Sequence[Package]]) -> str:
    steps = [
        {**summarize_step(*pair), "packages": changed_packages(*lists)}
        for pair, lists in zip(itertools.pairwise(trees), itertools.pairwise(plan), strict=True)
    ]
    return json.dumps({"trees": [summarize_tree(tree) for tree in trees], "steps": steps}, indent=2)


def default_directory() -> Path:
    configured = os.environ.get("HACKTREE_BENCH_DIR")
    return Path(configured) if configured else Path.home() / ".cache/hacktree-bench"


def make_trees(directory: Path) -> tuple[list[Tree], list[list[Package]]]:
    """One run at a time builds in a directory; another waits for it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = load_plan(directory / "plan.json")
        return [build(directory, number, packages) for number, packages in enumerate(plan)], plan


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dir", type=Path, default=default_directory(), help="default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("trees.py: only root can give the files their owners", file=sys.stderr)
        return 1
    try:
        trees, plan = make_trees(arguments.dir.absolute())
    except (TreesError, subprocess.CalledProcessError, OSError) as error:
        print(f"trees.py: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(as_json(trees, plan))
    else:
        print_summary(trees, plan)
    return 0


if __name__ == "__main__":
    sys.exit(main())
