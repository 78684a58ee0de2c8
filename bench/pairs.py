"""Any two of the 64 builds of builds.py: a client that has one pulls the other.

ostree would fetch what the new build needs and the old one lacks object by object. That is computed
from the sizes of its objects, without the headers of its responses: content as its archive of the
three trees holds it, and directories as their encoding says.
"""

import functools
import random
import re
import shutil
import statistics
import subprocess
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.builds import BRANCHES, make_builds, subjects
from bench.harness import HACKTREE, Table, hacktree_json, measure
from bench.network import Sites, Traffic, linked
from bench.ostree import Ostree
from bench.trees import report

from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import DirectoryEntry, FileEntry, SymlinkEntry, Tree
from hacktree.common.objects.walk import walk_tree
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.revision import resolve

SAMPLES, SEED = 40, 3
LISTED = re.compile(r"[-l]\d+ \d+ \d+ +\d+ ([0-9a-f]{64}) (/.*?)(?: -> .*)?")
"""A line of `ostree ls -R -C` for a file or a link."""

FILE_HEADER = 40
"""Bytes of a compressed file object before its content, without extended attributes."""


def sample(farm: Path, count: int) -> list[tuple[str, str]]:
    """Pairs of different builds as revisions, the same in every run."""
    names = [
        f"{branch}~{back}" if back else branch
        for branch in BRANCHES
        for back in reversed(range(len(subjects(farm, branch))))
    ]
    every = [(old, new) for old in names for new in names if old != new]
    return random.Random(SEED).sample(every, count)


def root_of(path: Path, revision: str) -> ObjectId:
    """The tree of a revision."""
    repository = open_repository(path)
    return repository.load_commit(resolve(repository, revision)).root.id


# --- what ostree would fetch ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileKey:
    """What makes an ostree file object: content (a link's target) and attributes."""

    content: bytes
    mode: int
    uid: int
    gid: int


def key_of(entry: FileEntry | SymlinkEntry) -> FileKey:
    """The key of a file or a link."""
    if isinstance(entry, FileEntry):
        return FileKey(entry.id, entry.mode, entry.uid, entry.gid)
    return FileKey(entry.target, 0, entry.uid, entry.gid)


class ObjectSizes:
    """Sizes of ostree's objects for builds of `farm`."""

    def __init__(self, farm: Path, ostree: Ostree, three: Path) -> None:
        self.repository = open_repository(farm)
        self.load = functools.cache(self.repository.load_tree)
        self.files: dict[FileKey, int] = {}
        archive = open_repository(three)
        for number in (0, 1, 2):
            sizes = dict(listed(ostree, number))
            root = archive.load_commit(resolve(archive, f"builds~{2 - number}")).root.id
            for path, entry in walk_tree(archive.load_tree, root):
                if not isinstance(entry, DirectoryEntry):
                    self.files[key_of(entry)] = sizes[path]

    @functools.cache  # noqa: B019 - one instance, for the whole run
    def build(self, revision: str) -> dict[object, int]:
        """Every object of a build with its size."""
        root = self.repository.load_commit(resolve(self.repository, revision)).root.id
        found: dict[object, int] = {root: dirtree_size(self.load(root))}
        for _, entry in walk_tree(self.load, root):
            if isinstance(entry, DirectoryEntry):
                if entry.id not in found:
                    found[entry.id] = dirtree_size(self.load(entry.id))
                continue
            key = key_of(entry)
            if key not in self.files:
                self.files[key] = compressed_size(self.repository, entry)
            found[key] = self.files[key]
        return found

    def step(self, old: str, new: str) -> Traffic:
        """What a client with `old` fetches for `new`: a request for each object."""
        before, after = self.build(old), self.build(new)
        lacking = [size for key, size in after.items() if key not in before]
        return Traffic(len(lacking), sum(lacking))


def listed(ostree: Ostree, number: int) -> Iterator[tuple[bytes, int]]:
    """Path and compressed size of every file and link of a build in ostree's archive."""
    for line in ostree.output("ls", "-R", "-C", ostree.revision(number)).split("\n"):
        match = LISTED.fullmatch(line)
        if match:
            name = f"{match[1][:2]}/{match[1][2:]}.filez"
            size = (ostree.path / "objects" / name).stat().st_size
            yield match[2][1:].encode("utf-8", "surrogateescape"), size


def dirtree_size(tree: Tree) -> int:
    """Bytes of the GVariant a(say)a(sayay): name, NUL, hash (two for a directory), offsets."""
    directories = [len(e.name) + 67 for e in tree.entries if isinstance(e, DirectoryEntry)]
    files = [len(e.name) + 34 for e in tree.entries if not isinstance(e, DirectoryEntry)]
    size = sum(directories) + sum(files)
    offset = 1 if size < 200 else 2 if size < 60_000 else 4
    return size + offset * (len(directories) + len(files) + 1)


def compressed_size(repository: Repository, entry: FileEntry | SymlinkEntry) -> int:
    """For what none of the three trees holds: dpkg's status, as the archive would compress it."""
    if isinstance(entry, SymlinkEntry):
        return FILE_HEADER + len(entry.target)
    content = b"".join(repository.read_content(entry))
    return FILE_HEADER + len(zlib.compress(content, 6, -zlib.MAX_WBITS))


# --- what we fetch ----------------------------------------------------------------------------


def make_reference(path: Path, url: str, farm: Path) -> None:
    """A bare repository with all builds, for the clients of all pairs to take objects from."""
    if not path.exists():
        new_client(path, url)
    for branch in BRANCHES:
        for back in reversed(range(len(subjects(farm, branch)))):
            report(f"all builds in one place: {branch}~{back}")
            measure(HACKTREE, "--repo", str(path), "pull", "--no-deltas", f"{branch}~{back}")


def new_client(path: Path, url: str) -> None:
    """An empty bare repository with a remote."""
    measure(HACKTREE, "--repo", str(path), "init", "--mode", "bare")
    # The link to `url` is on this machine, but looks like a network: `remote add` would ask for a
    # fingerprint. Signed heads take two more requests where nothing changed, four for a new build.
    remotes = path / "state/remotes"
    remotes.mkdir()
    (remotes / "o.toml").write_text(f'url = "{url}"\ntrust = "unsigned"\n')


def pull_pair(sites: Sites, reference: Path, client: Path, old: str, new: str) -> Traffic:
    """What the site sends to a client with `old` that pulls `new`."""
    shutil.rmtree(client, ignore_errors=True)
    new_client(client, sites.url("pairs"))
    pull = (HACKTREE, "--repo", str(client), "pull")
    measure(*pull, "--no-deltas", "--reference", str(reference), old)
    before = sites.sent("pairs")
    measure(*pull, new)
    return sites.traffic("pairs", before)


def generate(farm: Path, table: Table) -> None:
    """The packs of all builds, as the farm would make them over time; those that are there stay.

    Nothing but their first and newest builds joins the two branches.
    """
    before = _count_packs(farm)
    generate_command = (HACKTREE, "--repo", str(farm), "delta", "generate")
    started = time.monotonic()
    subprocess.run([*generate_command, *BRANCHES, "--all"], check=True)
    for old, new in (BRANCHES, BRANCHES[::-1]):
        for pair in ((old, new), (first(farm, old), first(farm, new))):
            subprocess.run([*generate_command, "--from", pair[0], "--to", pair[1]], check=True)
    made, seconds = _count_packs(farm) - before, time.monotonic() - started
    table.add(f"generating {made} packs of the 64 builds", f"{seconds:.0f} s", "—", 0, "")


def first(farm: Path, branch: str) -> str:
    """A branch's first build."""
    return f"{branch}~{len(subjects(farm, branch)) - 1}"


def _count_packs(farm: Path) -> int:
    edges = hacktree_json(farm, "delta", "list")
    assert isinstance(edges, list)
    return len(edges)


def compare_pairs(trees: Path, ostree: Ostree, sites: Sites, table: Table) -> None:
    """Sampled pairs: requests, and bytes against ostree's objects one by one."""
    farm = make_builds(trees)
    generate(farm, table)
    sizes = ObjectSizes(farm, ostree, trees / "compare/farm")
    reference, client = trees / "builds/reference", trees / "builds/client"
    ours, peers, ratios = [], [], []
    with linked(), sites.served():
        make_reference(reference, sites.url("pairs"), farm)
        for old, new in sample(farm, SAMPLES):
            peer = sizes.step(old, new)
            sent = pull_pair(sites, reference, client, old, new)
            ours.append(sent)
            peers.append(peer)
            ratios.append(sent.bytes / peer.bytes)
            print(f"  {old} → {new}: {sent} against {peer}: {ratios[-1]:.3f}", flush=True)
    shutil.rmtree(client)
    most = max(sent.requests for sent in ours)
    table.add(f"{SAMPLES} pairs of 64 builds: most requests", str(most),
              str(max(peer.requests for peer in peers)), most / 30, "≤ 1 (30)")  # fmt: skip
    table.add(
        "… median of bytes", _megabytes(ours), _megabytes(peers), statistics.median(ratios),
        "≤ 0.35",
    )  # fmt: skip
    table.add("… worst ratio of bytes", "", "", max(ratios), "")


def _megabytes(traffic: list[Traffic]) -> str:
    return f"{statistics.median(each.bytes for each in traffic) / 1e6:.1f} MB"
