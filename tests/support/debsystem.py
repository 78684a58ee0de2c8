"""Small systems that dpkg installed: real debs, unpacked by the machine's dpkg, committed."""

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field, replace  # noqa: TID251 - of a dataclass
from pathlib import Path

from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.committing import CommitRequest, commit_source
from hacktree.common.repository.directory import ingest_directory
from hacktree.common.repository.ingest import IngestOptions
from hacktree.common.repository.repository import Repository
from support.bootable import BUSYBOX
from support.vendor import program

_APPLETS = ("sh", "cat", "echo", "grep", "test", "true", "ls", "sleep", "kill", "rm", "touch")


@dataclass(frozen=True)
class Deb:
    """A package; `control`: more fields. Files are executable; a target in `links` as it stands."""

    name: str
    version: str = "1"
    files: dict[str, str | bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    control: dict[str, str] = field(default_factory=dict)

    def at(self, version: str, **files: str) -> "Deb":
        """Another version, in which these files are different: usr_bin_app is usr/bin/app."""
        changed = {name.replace("_", "/"): text for name, text in files.items()}
        return replace(self, version=version, files={**self.files, **changed})

    def lay_out(self, top: Path) -> None:
        """Write files and links below a directory."""
        for name, content in self.files.items():
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            path.chmod(0o755)
        for name, target in self.links.items():
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)


def base_system() -> list[Deb]:
    """What scripts need to run: busybox, and the directories that programs expect."""
    assert BUSYBOX.exists(), "busybox-static is missing: tools/system-packages.sh tests"
    places = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var")
    return [
        Deb(
            "base",
            files={f"{place}/.keep": "" for place in places},
            links={"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib"},
        ),
        Deb(
            "shell",
            files={"usr/bin/busybox": BUSYBOX.read_bytes()},
            links={f"usr/bin/{name}": "busybox" for name in _APPLETS},
        ),
    ]


def install(debs: Iterable[Deb], tree: Path, shelf: Path) -> None:
    """Make `tree`, in which dpkg installed them. `shelf` keeps the debs that were built."""
    for part in ("info", "updates"):
        (tree / "var/lib/dpkg" / part).mkdir(parents=True)
    (tree / "var/lib/dpkg/status").touch()
    files = [str(make_deb(deb, shelf)) for deb in debs]
    command = ["dpkg", f"--root={tree}", "--log=/dev/null", "--force-unsafe-io", "--install"]
    subprocess.run([*command, *files], check=True, capture_output=True)


def make_deb(deb: Deb, shelf: Path) -> Path:
    """The package's file in `shelf`, built unless it is there."""
    program("dpkg-deb", "dpkg")
    top = shelf / f"{deb.name}_{deb.version}"
    built = top.with_name(f"{top.name}.deb")
    if built.exists():
        return built
    (top / "DEBIAN").mkdir(parents=True)
    fields = {
        "Package": deb.name,
        "Version": deb.version,
        "Architecture": "all",
        "Maintainer": "Tests <tests@example.org>",
        **deb.control,
        "Description": "Made by a test",
    }
    text = "".join(f"{name}: {value}\n" for name, value in fields.items())
    (top / "DEBIAN/control").write_text(text)
    deb.lay_out(top)
    for where, _, _ in os.walk(top):
        os.chmod(where, 0o755)
    command = ["dpkg-deb", "--build", "--root-owner-group", "-Znone", str(top)]
    subprocess.run([*command, str(built)], check=True, capture_output=True)
    return built


def commit_tree(repository: Repository, tree: Path, branch: str = "fastqa") -> ObjectId:
    """Commit the tree as the next build of the branch."""
    request = CommitRequest(branch=parse_branch_name(branch), time=1_700_000_000)
    options = IngestOptions(jobs=1)
    result = commit_source(
        repository,
        lambda transaction, base: ingest_directory(transaction, tree, options, None),
        request,
    )
    return result.id
