"""The commands of a tester's machine, as a person and as a program see them."""

import json
import os
from pathlib import Path

import pytest

from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from support.sysroots import deploy, make_build, make_sysroot


@pytest.fixture
def sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(tmp_path / "sysroot"))
    return make_sysroot(tmp_path / "sysroot", "keep-roots = 2\n")


def test_a_day_on_a_testers_machine(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """deploy, status, rollback, pin, unpin, undeploy, cleanup, each with its one line."""
    first = make_build(sysroot, 1)
    assert main(["deploy", "fastqa"]) == 0
    one = f"gnomeos-{first.hex()[:9]}.1"
    assert f"{one} is live" in capsys.readouterr().out
    assert main(["deploy", "fastqa"]) == 0
    assert f"nothing to do: {one} is live already" in capsys.readouterr().out
    second = make_build(sysroot, 2)
    two = f"gnomeos-{second.hex()[:9]}.1"
    assert main(["deploy", "fastqa", "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        f"check out 4 files, swap to {two}\nagainst {one}: 1 paths added, 1 changed, 1 removed\n"
    )
    assert main(["deploy", "fastqa", "--dry-run", "--verbose"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ["A /usr/share/only-2", "M /usr/lib/os-release", "D /usr/share/only-1"]
    assert main(["deploy", "fastqa", "--verbose"]) == 0
    assert f"{two} is live (was {one})" in capsys.readouterr().out
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"* {two}  (current)"
    assert lines[2] == f"  {one}  (previous)"
    assert "fastqa 47.1" in lines[3]
    assert main(["rollback", "--dry-run"]) == 0
    assert f"{one} would be live" in capsys.readouterr().out
    assert main(["rollback"]) == 0
    assert f"{one} is live (was {two})" in capsys.readouterr().out
    assert main(["pin", "previous"]) == 0
    assert f"{two} is pinned" in capsys.readouterr().out
    assert main(["undeploy", two, "--force"]) == 2
    assert "pinned" in capsys.readouterr().err
    assert main(["unpin", two]) == 0
    assert main(["undeploy", two]) == 2
    assert main(["undeploy", two, "--force"]) == 0
    assert os.listdir(sysroot.roots) == [one]
    capsys.readouterr()
    assert main(["cleanup"]) == 0
    assert capsys.readouterr().out == "nothing to clean up\n"


def test_programs_get_json(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command prints one document with the same names for the same things."""

    def ask(*words: str) -> dict[str, object]:
        assert main([*words, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert isinstance(document, dict)
        return document

    first = make_build(sysroot, 1)
    plan = ask("deploy", "fastqa", "--dry-run")
    assert (plan["action"], plan["commit"], plan["from"]) == ("check-out", first.hex(), None)
    done = ask("deploy", "fastqa")
    assert (done["root"], done["changed"], done["linked"]) == (plan["root"], True, 3)
    make_build(sysroot, 2)
    second = ask("deploy", "fastqa")
    status = ask("status")
    assert (status["current"], status["previous"]) == (second["root"], done["root"])
    assert (status["running"], status["busy"], status["pending"]) == (None, None, [])
    roots = status["roots"]
    assert isinstance(roots, list)
    assert [root["version"] for root in roots] == ["47.2", "47.1"]
    assert roots[0]["commit-time"] == 1_700_000_002
    assert roots[0]["marks"] == ["current"]
    assert ask("rollback")["root"] == done["root"]
    assert ask("pin")["pinned"] is True
    assert ask("unpin")["pinned"] is False
    assert ask("undeploy", "previous", "--force")["removed"] == second["root"]
    assert ask("cleanup", "--dry-run") == {"recovered": [], "roots": [], "staging": None}


def test_status_reports_what_was_interrupted(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so and leaves it to a command that changes things."""
    deploy(sysroot, make_build(sysroot, 1))
    leftover = sysroot.roots / ".tmp-gnomeos-000000000.1"
    leftover.mkdir()
    assert main(["status"]) == 0
    assert f"delete the unfinished root {leftover.name}" in capsys.readouterr().out
    assert leftover.exists()
    assert main(["cleanup"]) == 0
    assert not leftover.exists()


def test_status_without_roots(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An empty sysroot has none; a directory that isn't a sysroot is an error with a next step."""
    assert main(["status"]) == 0
    assert "no roots" in capsys.readouterr().out
    assert main(["--sysroot", str(tmp_path), "status"]) == 2
    assert "hacktree pull" in capsys.readouterr().err


def test_deploy_of_what_is_not_here(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name is the caller's mistake: status 2, and nothing is made."""
    assert main(["deploy", "nosuch"]) == 2
    assert "nosuch" in capsys.readouterr().err
    assert os.listdir(sysroot.roots) == []
