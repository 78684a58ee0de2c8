"""The whole plan before anything is done: of a build that is here, and of one that is not yet."""

import json
import os
from pathlib import Path

import pytest

from hacktree.client.edits.places import etc_place
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.repository import open_repository
from support.debs import build_tool
from support.layering import make_library, make_program, write_tree
from support.sysroots import make_sysroot
from support.trees import File, Spec, make_commit


@pytest.fixture
def sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    """Build 1 is live, from a farm."""
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(tmp_path / "sysroot"))
    sysroot = make_sysroot(tmp_path / "sysroot", "keep-roots = 1\n")
    init_repository(tmp_path / "farm", Mode.ARCHIVE)
    publish(tmp_path, 1)
    assert main(["remote", "add", "farm", f"file://{tmp_path}/farm", "--unsigned"]) == 0
    assert main(["pull", "fastqa"]) == 0
    return sysroot


def publish(tmp_path: Path, number: int, more: dict[str | bytes, Spec] | None = None) -> ObjectId:
    """Build `number` of the farm: a program, a library of it, configuration, packages."""
    library, program = tmp_path / "libbase.so.1", tmp_path / "base"
    if not program.exists():
        make_library(library, "libbase.so.1", ["base"])
        make_program(program, ["base"], [library])
    tree: dict[str | bytes, Spec] = {
        "usr/lib/libbase.so.1": File(library.read_bytes(), 0o755),
        "usr/bin/base": File(program.read_bytes(), 0o755),
        "usr/lib/os-release": f"VERSION={number}\n".encode(),
        f"usr/share/only-{number}": b"",
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "etc/app.conf": b"colour = red\n",
        "etc/same.conf": f"number = {number}\n".encode(),
        **(more or {}),
    }

    return make_commit(
        open_repository(tmp_path / "farm"),
        tree,
        time=1_700_000_000 + number,
        metadata={"packages": [["app", f"1.{number}", "all"]]},
    )


def change_by_hand(sysroot: Sysroot) -> None:
    """As a session does: one file that build 2 has just so, and others."""
    upper = etc_place(sysroot, sysroot.link.resolve().name).upper
    upper.mkdir(parents=True)
    (upper / "app.conf").write_text("colour = blue\n")
    (upper / "same.conf").write_text("number = 2\n")
    (upper / "mine.d").mkdir()
    (upper / "mine.d/note").write_text("mine\n")
    for path in (upper / "app.conf", upper / "same.conf", upper / "mine.d/note"):
        path.chmod(0o644)


def add_local_changes(sysroot: Sysroot, tmp_path: Path) -> None:
    """A script, a layer that brings a library of its own, an extension."""
    (tmp_path / "10-mine").write_text("#!/bin/sh\n")
    (tmp_path / "10-mine").chmod(0o755)
    assert main(["config", "add", str(tmp_path / "10-mine")]) == 0
    add_layer(tmp_path)
    assert main(["extension", "add", str(build_tool(tmp_path, 1, "all"))]) == 0


def add_layer(tmp_path: Path) -> None:
    make_library(tmp_path / "layer/usr/lib/libbase.so.1", "libbase.so.1", ["base"])
    assert main(["layer", "add", "lib", str(tmp_path / "layer"), "--replace", "usr/lib/*"]) == 0


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    capsys.readouterr()
    assert main([*words, "--dry-run", "--verbose", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_a_pulls_plan_is_that_of_the_deploy_that_follows(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the key of every step, though the build's files are not here; and it fetches none."""
    change_by_hand(sysroot)
    add_local_changes(sysroot, tmp_path)
    publish(tmp_path, 2)
    names = sorted(os.listdir(sysroot.repository.objects))
    foreseen = plan(capsys, "pull", "fastqa")["deploy"]
    assert sorted(os.listdir(sysroot.repository.objects)) == names
    assert main(["pull", "fastqa", "--pull-only"]) == 0
    assert plan(capsys, "deploy", "fastqa") == foreseen
    assert isinstance(foreseen, dict)
    assert foreseen["changes"] == {
        "added": 1,
        "changed": 2,
        "removed": 1,
        "paths": {
            "added": ["/usr/share/only-2"],
            "changed": ["/etc/same.conf", "/usr/lib/os-release"],
            "removed": ["/usr/share/only-1"],
        },
        "packages": {"changed": [["app", "all", "1.1", "1.2"]], "added": [], "removed": []},
    }
    assert foreseen["left-behind"] == {
        "certain": False,
        "changes": [
            {"path": "/etc/app.conf", "change": "changed"},
            {"path": "/etc/mine.d", "change": "added"},
            {"path": "/etc/mine.d/note", "change": "added"},
        ],
    }
    assert foreseen["extensions"] == ["tool.all.deb"]
    assert foreseen["layers"] == [{"name": "lib", "version": 1, "files": 1}]
    assert foreseen["scripts"] == ["10-mine"]


def test_people_are_shown_all_of_it(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a step of the live root did and the new root has no more, too."""
    add_layer(tmp_path)
    assert main(["deploy", "fastqa"]) == 0
    first = sysroot.link.resolve().name
    assert main(["deploy", "fastqa", "--replay"]) == 0
    change_by_hand(sysroot)
    live = sysroot.link.resolve().name
    assert main(["layer", "disable", "lib"]) == 0
    publish(tmp_path, 2)
    capsys.readouterr()
    assert main(["pull", "fastqa", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Commit ")
    at = next(number for number, line in enumerate(lines) if line.startswith("check out 7 files"))
    assert lines[at + 1 :] == [
        f"against {live}: 1 paths added, 2 changed, 1 removed",
        "package app: 1.1 → 1.2",
        "no longer: step layer lib",
        "no longer: step check of layers",
        "no longer: step triggers",
        f"left behind of what was changed by hand in {live}; a copy is kept:",
        "  M /etc/app.conf",
        "  A /etc/mine.d",
        "  A /etc/mine.d/note",
        f"remove {first}",
    ]


def test_a_build_whose_users_are_not_here_yet_is_planned_all_the_same(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which ids local users get depends on them; the other steps are known."""
    add_local_changes(sysroot, tmp_path)
    publish(tmp_path, 2, {"etc/passwd": b"root:x:0:0::/root:/bin/sh\nnew:x:9:9::/:/bin/sh\n"})
    foreseen = plan(capsys, "pull", "fastqa")["deploy"]
    assert main(["pull", "fastqa", "--pull-only"]) == 0
    known = plan(capsys, "deploy", "fastqa")
    assert isinstance(foreseen, dict)
    steps, those = foreseen["steps"], known["steps"]
    assert isinstance(those, list)
    assert steps == those[: len(steps)]
    assert [step["name"] for step in those[len(steps) :]] == ["ids"]


def test_a_layer_that_does_not_fit_a_build_is_known_before_that_is_fetched(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan ends as the deploy would."""
    write_tree(tmp_path / "clash", {"usr/share/only-2": b"mine"})
    assert main(["layer", "add", "clash", str(tmp_path / "clash")]) == 0
    publish(tmp_path, 2)
    capsys.readouterr()
    assert main(["pull", "fastqa", "--dry-run"]) == 2
    assert "usr/share/only-2: is in build" in capsys.readouterr().err
