"""What local changes add to a deploy: 3 config scripts, a layer of 500 files and 2 RPMs on tree 1.

In --dir: `replay/sysroot`, which stays. The bare deploy checks the same build out without changes.
The time of the steps themselves is what the deploy says of each; everything else is ours: overlays,
materialising by links, the proof that the repository is untouched. As root; needs rpmbuild.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from bench.harness import HACKTREE
from bench.trees import default_directory, report

from hacktree.client.sysroot import prepare_sysroot

RAW: Final = argparse.RawDescriptionHelpFormatter
SCRIPTS: Final = {
    "10-locale": "echo LANG=de_DE.UTF-8 >/etc/locale.conf\n",
    "20-sshd": "sed 's/^#PasswordAuthentication.*/PasswordAuthentication no/' "
    "/usr/share/openssh/sshd_config >/etc/ssh/sshd_config\n",
    "30-journal": "mkdir -p /etc/systemd/journald.conf.d\n"
    "printf '[Journal]\\nStorage=volatile\\n' >/etc/systemd/journald.conf.d/10-bench.conf\n",
}
LAYER_FILES = 500
SPEC = """\
Name: bench-{name}
Version: 1.0
Release: 1
Summary: A program of this machine
License: MIT

%description
For the benchmark.

%install
install -D -m 755 {program} %{{buildroot}}/usr/local/bin/bench-{name}

%files
/usr/local/bin/bench-{name}
"""


def make_rpm(directory: Path, name: str, program: str) -> Path:
    """A package of a program that this machine has, with the requirements that rpm finds."""
    spec = directory / f"{name}.spec"
    spec.write_text(SPEC.format(name=name, program=shutil.which(program)), encoding="utf-8")
    defined = {"_topdir": str(directory), "debug_package": "%{nil}", "_build_id_links": "none"}
    words = [word for key, value in defined.items() for word in ("--define", f"{key} {value}")]
    subprocess.run(["rpmbuild", "-bb", "--quiet", *words, spec], check=True)
    return next((directory / "RPMS").glob(f"*/bench-{name}-*.rpm"))


def hacktree(sysroot: Path, *words: str | Path) -> tuple[str, ...]:
    """A command line."""
    return (HACKTREE, "--sysroot", str(sysroot), *map(str, words))


def make_sysroot(directory: Path, tree: Path) -> Path:
    """A sysroot whose repository holds the tree; an earlier one is used again."""
    sysroot = directory / "sysroot"
    if not (sysroot / ".ht/refs/builds").exists():
        shutil.rmtree(directory, ignore_errors=True)
        (sysroot / "etc/hacktree").mkdir(parents=True)
        prepare_sysroot(sysroot)
        repository = ("--repo", str(sysroot / ".ht"))
        subprocess.run([HACKTREE, *repository, "commit", "builds", tree], check=True)
    return sysroot


def add_changes(sysroot: Path, directory: Path) -> None:
    """Everything that is to be replayed."""
    for name, text in SCRIPTS.items():
        script = directory / name
        script.write_text(f"#!/bin/sh\nset -e\n{text}", encoding="utf-8")
        script.chmod(0o755)
        subprocess.run(hacktree(sysroot, "config", "add", script), check=True)
    built = directory / "built/usr/local/share/bench"
    for number in range(LAYER_FILES):
        path = built / f"{number // 50}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{number}\n".encode() * 500)
    subprocess.run(hacktree(sysroot, "layer", "add", "bench", directory / "built"), check=True)
    for name, program in (("openssl", "openssl"), ("strace", "strace")):
        package = make_rpm(directory, name, program)
        subprocess.run(hacktree(sysroot, "extension", "add", package), check=True)


class Changes:
    """The local changes, which can be put away: `etc/hacktree` with and without them."""

    def __init__(self, sysroot: Path) -> None:
        self.place = sysroot / "etc/hacktree"
        self.away = sysroot / "etc/hacktree.away"

    def set(self, *, there: bool) -> None:
        """Have them or not."""
        if there == self.away.exists():
            spare = self.place.with_name("hacktree.spare")
            self.place.rename(spare)
            if there:
                self.away.rename(self.place)
                spare.rmdir()
            else:
                spare.rename(self.away)
                self.place.mkdir()


@dataclass(frozen=True, slots=True)
class Deployed:
    """One deploy: seconds of it all, of the steps themselves, and of CPU."""

    wall: float
    steps: float
    cpu: float


def deploy(sysroot: Path, *words: str) -> Deployed:
    """A deploy of a new root; what went before it is on the disk."""
    os.sync()
    command = hacktree(sysroot, "--json", "deploy", "builds", *words)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    wall = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    document = msgspec.json.decode(done.stdout, type=_Document)
    steps = sum(step.seconds for step in document.steps)
    report(f"{' '.join(words)}: {wall:.2f} s, {document.seconds}, {document.steps}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Deployed(wall, steps, cpu)


class _Step(msgspec.Struct):
    name: str
    seconds: float


class _Document(msgspec.Struct):
    seconds: dict[str, float]
    steps: list[_Step] = []


def main() -> None:
    """Deploy by turns with and without the changes, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("--dir", type=Path, default=default_directory())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    directory = args.dir / "replay"
    sysroot = make_sysroot(directory, args.dir / "1")
    changes = Changes(sysroot)
    changes.set(there=True)
    if not (sysroot / "etc/hacktree/config.d").exists():
        deploy(sysroot)  # Layers and packages are checked against a build that is there.
        add_changes(sysroot, directory)
    bare, whole = [], []
    for _ in range(args.rounds):
        changes.set(there=False)
        bare.append(deploy(sysroot, "--replay"))
        changes.set(there=True)
        whole.append(deploy(sysroot, "--replay"))
    middle = statistics.median
    plain = middle(each.wall for each in bare)
    steps = middle(each.steps for each in whole)
    rest = middle(each.wall - each.steps for each in whole)
    print(f"bare deploy {plain:.2f} s ({middle(each.cpu for each in bare):.2f} s CPU)")
    cost = f"{middle(each.wall for each in whole):.2f} s"
    cost += f" ({middle(each.cpu for each in whole):.2f} s CPU)"
    print(f"with changes {cost}, of which the steps {steps:.2f} s")
    print(f"without the steps {rest:.2f} s: {rest / plain:.2f} of the bare deploy (target 2)")
    same = deploy(sysroot)
    print(f"again, nothing changed: {same.wall:.2f} s")


if __name__ == "__main__":
    main()
