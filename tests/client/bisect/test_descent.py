"""A search that can't go on in a coarse branch goes on in the finer one."""

import json
import shutil
from pathlib import Path

import pytest

from hacktree.common.cli.main import main
from support.bisectfarm import add_build, make_farm, make_tester

HOST_TEST = ("--host", "--", "sh", "-c", 'grep -q fine "$HACKTREE_ROOT/usr/share/state"')


def test_skipped_builds_of_a_coarse_branch_are_searched_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three of dailyqa, the middle one can't be tested: the builds between the others can."""
    farm = make_farm(tmp_path / "farm", 0, 0)
    for number in range(1, 8):
        commit = add_build(farm, number, broken=number >= 6)
        if number in (1, 4, 7):
            add_build(
                farm, number, broken=number >= 6, branch="dailyqa", promoted_from=commit.hex()
            )
    sysroot = make_tester(tmp_path / "sysroot", farm)
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    start = ("start", "dailyqa", "--good", "47.1", "--bad", "47.7", "--no-deploy", "--no-prefetch")
    assert main(["bisect", *start, "--verify", "never"]) == 0
    capsys.readouterr()
    assert main(["bisect", "skip"]) == 0
    printed = capsys.readouterr().out
    assert "Nothing is left to test between dailyqa 1 47.1" in printed
    assert "going on in fastqa, between what they were promoted from: 6 builds" in printed
    assert main(["bisect", "run", "--json", *HOST_TEST]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["outcome"]["kind"] == "found"
    assert document["outcome"]["first"]["version"] == "47.6"


def test_what_changed_is_known_at_the_end_of_a_descent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where both builds of the finer branch are as their promoted ones: neither was tested."""
    farm = make_farm(tmp_path / "farm", 0, 0)
    for number in range(1, 4):
        commit = add_build(farm, number, broken=number >= 3, branch="builds")
        add_build(farm, number, broken=number >= 3, promoted_from=commit.hex())
    sysroot = make_tester(tmp_path / "sysroot", farm)
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    assert main(["bisect", "start", "fastqa", "--good", "~2", "--no-deploy"]) == 0
    assert main(["bisect", "run", *HOST_TEST]) == 0
    assert "First bad build: builds 3 47.3 (" in capsys.readouterr().out
    shutil.rmtree(farm.path)
    assert main(["bisect", "report"]) == 0
    assert "usr/share/state" in capsys.readouterr().out
    assert main(["bisect", "next"]) == 0, "nothing is asked for again"
