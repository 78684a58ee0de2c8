"""A farm with a culprit, and a machine that looks for it."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from hacktree.client.remote import Remote, add_remote
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository
from support.enterable import hacktree
from support.pulling import make_repository
from support.sysroots import make_sysroot
from support.trees import Spec, make_commit

DAY = 86_400
FIRST_TIME = 1_700_000_000


def make_farm(path: Path, builds: int, culprit: int, *, branch: str = "fastqa") -> Repository:
    """An archive with builds 1 to `builds`, of versions 47.N, a day apart, bad from `culprit`."""
    farm = make_repository(path)
    for number in range(1, builds + 1):
        add_build(farm, number, broken=number >= culprit, branch=branch)
    return farm


def add_build(
    farm: Repository,
    number: int,
    *,
    broken: bool,
    branch: str = "fastqa",
    promoted_from: str = "",
    tree: dict[str | bytes, Spec] | None = None,
) -> ObjectId:
    """Commit one."""
    files: dict[str | bytes, Spec] = {
        "etc/hostname": b"tree\n",
        "usr/lib/os-release": f"VERSION={number}\n".encode(),
        "usr/share/state": b"broken\n" if broken else b"fine\n",
    }
    return make_commit(
        farm,
        {**files, **(tree or {})},
        branch=branch,
        time=FIRST_TIME + DAY * number,
        version=f"47.{number}",
        metadata={"promoted-from": promoted_from} if promoted_from else None,
    )


def make_tester(path: Path, farm: Repository) -> Sysroot:
    """A machine that pulls from the farm."""
    sysroot = make_sysroot(path)
    (sysroot.repository.path / "config.toml").write_text('min-free-space = "0"\n')
    add_remote(sysroot.repository, Remote("farm", f"file://{farm.path}", "unsigned"))
    return sysroot


def bisect(sysroot: Sysroot, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `hacktree bisect`, which must end with this status."""
    done = hacktree(sysroot, "bisect", *words)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done


def versions(builds: object) -> list[str]:
    """The versions in a list of builds as JSON has them."""
    assert isinstance(builds, Iterable)
    return [build["version"] for build in builds]
