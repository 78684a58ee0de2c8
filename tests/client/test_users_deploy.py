"""People, ids and homes of real deploys: in namespaces, cached, materialised, swapped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.client.deploy import DeployAction
from hacktree.client.sysroot import Sysroot
from hacktree.client.users.registry import read_registry
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.fsck import fsck
from support.machines import build_tree, make_machine
from support.programs import copy_programs
from support.sysroots import deploy
from support.trees import File, Spec, Symlink, make_commit

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")

SCRIPT = """#!/bin/sh -e
/usr/sbin/useradd -r {0}
touch /usr/{0}
chown {0}:{0} /usr/{0}
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str | bytes, Spec]:
    """A tree in which scripts can add users."""
    directory = tmp_path_factory.mktemp("tools")
    copy_programs(directory, "sh", "useradd", "touch", "chown")
    tree: dict[str | bytes, Spec] = {}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            tree[name] = Symlink(os.fsencode(os.readlink(path)))
        elif path.is_file():
            tree[name] = File(path.read_bytes(), 0o755)
    tree["etc/login.defs"] = b"SYS_UID_MIN 100\nSYS_GID_MIN 100\nUSERGROUPS_ENAB yes\n"
    tree["home/live"] = b"from the build"
    return {**build_tree(), **tree}


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    return make_machine(tmp_path / "machine")


@pytest.fixture
def commit(sysroot: Sysroot, tools: dict[str | bytes, Spec]) -> ObjectId:
    return make_commit(sysroot.repository, tools)


def add_script(sysroot: Sysroot, name: str, user: str) -> None:
    path = sysroot.path / "etc/hacktree/config.d" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(SCRIPT.format(user))
    path.chmod(0o755)


def passwd(sysroot: Sysroot) -> dict[str, int]:
    lines = (sysroot.link / "etc/passwd").read_text().splitlines()
    return {line.split(":")[0]: int(line.split(":")[2]) for line in lines}


def test_a_machine_from_one_root_to_the_next(sysroot: Sysroot, commit: ObjectId) -> None:
    """People are there, ids stay though the scripts change, /home is empty; then nothing to do."""
    add_script(sysroot, "50-svc", "svc")
    first = deploy(sysroot, commit)
    before = passwd(sysroot)
    assert before["jane"] == 1000
    assert (sysroot.link / "usr/svc").stat().st_uid == before["svc"]
    assert os.listdir(sysroot.link / "home") == []
    assert read_registry(sysroot).users == {"svc": (before["svc"],)}
    assert deploy(sysroot, commit).action is DeployAction.NOTHING
    add_script(sysroot, "10-new", "new")
    second = deploy(sysroot, commit)
    assert second.root != first.root
    after = passwd(sysroot)
    assert after["svc"] == before["svc"] == (sysroot.link / "usr/svc").stat().st_uid
    assert after["new"] == (sysroot.link / "usr/new").stat().st_uid not in before.values()
    assert deploy(sysroot, commit).action is DeployAction.NOTHING
    (sysroot.path / "etc/hacktree/config.d/50-svc").unlink()
    deploy(sysroot, commit)
    assert passwd(sysroot) == {name: uid for name, uid in after.items() if name != "svc"}
    add_script(sysroot, "50-svc", "svc")
    deploy(sysroot, commit)
    assert passwd(sysroot) == after, "also after a root without it"
    assert fsck(sysroot.repository).intact


def test_another_password_is_another_root(sysroot: Sysroot, commit: ObjectId) -> None:
    """What the machine's people changed is in the next deploy of the same build."""
    first = deploy(sysroot, commit)
    with (sysroot.path / "etc/passwd").open("a") as stream:
        stream.write("carol:x:1007:1007::/home/carol:/bin/bash\n")
    second = deploy(sysroot, commit)
    assert second.root != first.root
    assert passwd(sysroot)["carol"] == 1007
    status = (sysroot.link / "etc/shadow").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 0, 42)


DEPLOY_KILLED = """
import os, signal, sys
from pathlib import Path
from hacktree.common.repository import durable
rename = durable.os.rename
def kill(source, target, **options):
    if str(target).endswith("/users.json"):
        if sys.argv[3] == "after":
            rename(source, target, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(source, target, **options)
durable.os.rename = kill
from hacktree.client.deploy import DeployOptions, deploy_commit
from hacktree.client.sysroot import open_sysroot
from hacktree.common.objects.ids import parse_object_id
deploy_commit(
    open_sysroot(Path(sys.argv[1])), parse_object_id(sys.argv[2]), DeployOptions(), print
)
"""


def test_killed_while_ids_are_kept(sysroot: Sysroot, commit: ObjectId) -> None:
    """No root went live with ids that nobody knows; the next deploy gives the same ones."""
    add_script(sysroot, "50-svc", "svc")
    for moment in ("before", "after"):
        killed = subprocess.run(
            [sys.executable, "-c", DEPLOY_KILLED, str(sysroot.path), commit.hex(), moment],
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        assert not sysroot.link.is_symlink()
        assert bool(read_registry(sysroot).users) == (moment == "after")
    kept = read_registry(sysroot).users
    deploy(sysroot, commit)
    assert kept == read_registry(sysroot).users == {"svc": (passwd(sysroot)["svc"],)}
    assert not list(sysroot.repository.state.glob(".*"))
