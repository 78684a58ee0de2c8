"""Sysroots for tests, and what must hold of every one of them."""

import os
from pathlib import Path

from hacktree.client.deploy import DeployOptions, DeployResult, deploy_commit
from hacktree.client.recovery import find_leftovers
from hacktree.client.sysroot import Sysroot, open_sysroot, prepare_sysroot
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.walk import walk_tree
from support.trees import Spec, make_commit


def make_sysroot(path: Path, config: str = "") -> Sysroot:
    """An empty sysroot with this `client.toml`."""
    (path / "etc/hacktree").mkdir(parents=True)
    (path / "etc/hacktree/client.toml").write_text(config)
    return prepare_sysroot(path)


def make_build(sysroot: Sysroot, number: int, *, architecture: str = "") -> ObjectId:
    """Commit the small build `number`: some files are in all, some change, one is empty."""
    tree: dict[str | bytes, Spec] = {
        "usr/lib/os-release": f"VERSION={number}\n".encode(),
        "usr/bin/same": b"unchanged",
        f"usr/share/only-{number}": f"{number}".encode(),
        "empty": b"",
    }
    return make_commit(
        sysroot.repository,
        tree,
        time=1_700_000_000 + number,
        version=f"47.{number}",
        architecture=architecture,
    )


def deploy(
    sysroot: Sysroot, commit: ObjectId, options: DeployOptions | None = None
) -> DeployResult:
    """Deploy without telling anybody."""
    return deploy_commit(sysroot, commit, options or DeployOptions(), lambda line: None)


def live_version(sysroot: Sysroot) -> str:
    """What a person who looks through the live link sees."""
    return (sysroot.link / "usr/lib/os-release").read_text().strip()


def assert_live_root_is_complete(path: Path) -> ObjectId:
    """The live link resolves to a root that holds every path of its commit; returns the commit."""
    sysroot = open_sysroot(path)
    root = sysroot.link.resolve(strict=True)
    assert root.parent == sysroot.roots
    commits = [
        ObjectId(bytes.fromhex(pin.read_text().strip()))
        for pin in sysroot.pins.iterdir()
        if pin.name == f"root-{root.name}"
    ]
    assert len(commits) == 1, "the live root's commit is kept by a pin"
    repository = sysroot.repository
    tree = repository.load_commit(commits[0]).root.id
    expected = sorted(path for path, _ in walk_tree(repository.load_tree, tree))
    found = sorted(
        os.path.relpath(os.path.join(directory, name), os.fsencode(root))
        for directory, directories, names in os.walk(os.fsencode(root))
        for name in directories + names
    )
    assert found == expected
    return commits[0]


def assert_nothing_left_over(path: Path) -> None:
    """No temporary name anywhere, no journal, no record or pin without its root."""
    sysroot = open_sysroot(path)
    assert not find_leftovers(sysroot)
    places = (path, sysroot.roots, sysroot.records, sysroot.pins)
    hidden = [n for place in places for n in os.listdir(place) if n.startswith(".") and n != ".ht"]
    assert hidden == []
    roots = set(os.listdir(sysroot.roots))
    assert set(os.listdir(sysroot.records)) == {
        f"{root}{suffix}" for root in roots for suffix in (".json", ".link")
    }
    assert {name.removeprefix("root-") for name in os.listdir(sysroot.pins)} == roots
