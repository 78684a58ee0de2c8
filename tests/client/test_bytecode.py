"""Changed Python sources are what runs, though a build's bytecode is never checked."""

import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.client.replay.sources import steps_of
from hacktree.client.replay.step import Build, Root
from hacktree.client.scripts.store import add_script
from hacktree.client.sysroot import Sysroot
from hacktree.client.triggers.bytecode import BytecodeStep
from hacktree.client.triggers.step import TriggerStep
from hacktree.common.cli.main import main
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.revision import resolve
from support.steps import FunctionStep, replaying
from support.sysroots import deploy, make_build, make_sysroot

PLACE = "usr/lib/python3"


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    return make_sysroot(tmp_path / "sysroot")


def commit_modules(sysroot: Sysroot, tree: Path) -> ObjectId:
    """A build with modules a, b and c, compiled as a distribution does."""
    (tree / PLACE).mkdir(parents=True)
    for name in "abc":
        source = tree / PLACE / f"{name}.py"
        source.write_text("value = 1\n")
        # As a build's are; with SOURCE_DATE_EPOCH in the environment others would be the default.
        by_time = py_compile.PycInvalidationMode.TIMESTAMP
        py_compile.compile(str(source), doraise=True, invalidation_mode=by_time)
    repository = str(sysroot.repository.path)
    assert main(["--repo", repository, "commit", "fastqa", str(tree), "--quiet"]) == 0
    return resolve(sysroot.repository, "fastqa")


def values(sysroot: Sysroot) -> str:
    """What a program that imports the modules from the live root sees."""
    return subprocess.run(
        [sys.executable, "-B", "-c", "import a, b, c; print(a.value, b.value, c.value)"],
        env={"PYTHONPATH": str(sysroot.link / PLACE)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def change(name: str, value: int) -> FunctionStep:
    """A step that changes a module without its size."""

    def write(root: Root) -> None:
        source = root.path / PLACE / f"{name}.py"
        source.write_text(f"value = {value}\n")
        os.utime(source, (0, 0))

    return FunctionStep(f"{name}={value}", write)


def test_a_changed_source_is_what_runs(sysroot: Sysroot, tmp_path: Path) -> None:
    """After layers and after scripts; of what nobody changed the bytecode stays."""
    commit = commit_modules(sysroot, tmp_path / "tree")
    deploy(sysroot, commit, replaying(change("a", 2)))
    assert values(sysroot) == "1 1 1", "Python trusts a build's bytecode: without it no test"
    deploy(
        sysroot,
        commit,
        replaying(change("a", 2), TriggerStep(0), change("b", 3), BytecodeStep()),
    )
    assert values(sysroot) == "2 3 1"
    left = os.listdir(sysroot.link / PLACE / "__pycache__")
    assert [name.split(".")[0] for name in left] == ["c"]


def test_bytecode_that_comes_with_its_source_stays(sysroot: Sysroot, tmp_path: Path) -> None:
    """From one step it is a layer's or a package's own; from an earlier one it is stale."""
    commit = commit_modules(sysroot, tmp_path / "tree")

    def both(root: Root) -> None:
        source = root.path / PLACE / "a.py"
        source.write_text("value = 5\n")
        py_compile.compile(
            str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )

    layer = FunctionStep("layer", both)
    deploy(sysroot, commit, replaying(layer, BytecodeStep()))
    assert len(os.listdir(sysroot.link / PLACE / "__pycache__")) == 3
    deploy(sysroot, commit, replaying(layer, change("a", 6), BytecodeStep()))
    assert values(sysroot) == "6 1 1"


def test_nothing_outside_the_root_is_dropped(sysroot: Sysroot, tmp_path: Path) -> None:
    """A later step may put a link in place of the directory with the changed source."""
    commit = commit_modules(sysroot, tmp_path / "tree")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.py").write_text("value = 1\n")
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compiled = py_compile.compile(str(outside / "a.py"), invalidation_mode=unchecked)

    def link(root: Root) -> None:
        shutil.rmtree(root.path / PLACE)
        (root.path / PLACE).symlink_to(outside)

    steps = (change("a", 2), FunctionStep("link", link), BytecodeStep())
    deploy(sysroot, commit, replaying(*steps))
    assert (sysroot.link / PLACE).is_symlink()
    assert compiled is not None
    assert Path(compiled).exists()


def test_scripts_are_followed_by_it(sysroot: Sysroot) -> None:
    """Where there are any."""
    commit = make_build(sysroot, 1)
    build = Build(sysroot, commit, sysroot.repository.load_commit(commit), None)
    assert "compiled Python" not in [step.name for step in steps_of(build)]
    add_script(sysroot.path, "10-a", b"#!/bin/sh\n", 0o755)
    names = [step.name for step in steps_of(build)]
    assert names.index("script 10-a") + 1 == names.index("compiled Python")
