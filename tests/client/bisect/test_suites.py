"""`hacktree bisect` with a farm's verdicts: shown, and taken as ends or priors when asked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from hacktree.client.bisect.store import read_bisection
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from hacktree.server.dashboard.publishing import publish_dashboard
from support.bisectfarm import add_build, make_tester, versions
from support.pulling import make_repository
from support.qa import FAIL, PASS, START, QaFarm

QUICK = ("--no-deploy", "--no-prefetch", "--verify", "never")
HOST_TEST = ("--json", "--host", "--", "sh", "-c", 'grep -q fine "$HACKTREE_ROOT/usr/share/state"')


@pytest.fixture
def qa(tmp_path: Path) -> QaFarm:
    """12 builds, bad from the 8th on; fastqa saw the 2nd, 6th and 10th. A suite is no CI."""
    farm = QaFarm(make_repository(tmp_path / "farm"))
    for number in range(1, 13):
        add_build(farm.repository, number, broken=number >= 8, branch="builds")
        if number in (2, 6, 10):
            farm.judge(PASS if number < 8 else FAIL)
    publish_dashboard(farm.repository, farm.database, START)
    return farm


@pytest.fixture
def sysroot(tmp_path: Path, qa: QaFarm, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    sysroot = make_tester(tmp_path / "sysroot", qa.repository)
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    return sysroot


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """One action in this process, as JSON."""
    capsys.readouterr()
    command = words if "--json" in words else (*words, "--json")
    assert main(["bisect", *command]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_ends_are_a_suite_s_last_pass_and_its_first_fail(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ask(capsys, "start", "builds", "--qa-endpoints", "fastqa", *QUICK)
    assert (asked["old"]["version"], asked["new"]["version"]) == ("47.6", "47.10")
    found = ask(capsys, "run", *HOST_TEST)
    assert found["outcome"]["first"]["version"] == "47.8"
    assert found["tests"] <= 2


def test_what_the_farm_said_stands_beside_builds_until_the_end(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(capsys, "start", "builds", "--good", "47.1", *QUICK)
    document = ask(capsys, "status", "--verbose")
    said = {build["version"]: build.get("farm") for build in document["line"]}
    assert said["47.2"] == "fastqa: pass"
    assert said["47.10"] == "fastqa: fail (exit status 3)"
    assert said["47.3"] is None
    assert len(versions(document["line"])) == 12
    for words in (["status", "--verbose"], ["visualize"], ["report", "--json"]):
        capsys.readouterr()
        assert main(["bisect", *words]) == 0
        assert "fastqa: fail (exit status 3)" in capsys.readouterr().out, words
    kept = sysroot.repository.state / "bisect/verdicts.json"
    kept.write_bytes(b"damaged")
    assert "farm" not in ask(capsys, "status", "--verbose")["line"][1]
    assert main(["bisect", "reset"]) == 0
    assert not kept.exists()


def test_priors_are_only_taken_when_asked_for(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(capsys, "start", "builds", "--good", "47.1", *QUICK)
    assert read_bisection(sysroot).session.priors == {}
    assert main(["bisect", "reset"]) == 0
    ask(capsys, "start", "builds", "--good", "47.1", "--qa-priors", *QUICK)
    session = read_bisection(sysroot).session
    likely = [build.version for build in session.line if build.commit in session.priors]
    assert likely == ["47.7", "47.8", "47.9", "47.10"]
    found = ask(capsys, "run", *HOST_TEST)
    assert found["outcome"]["first"]["version"] == "47.8"
    assert found["tests"] <= 4


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--qa-endpoints", "fastqa", "--good", "47.1"), "names both ends"),
        (("--qa-endpoints", "dailyqa"), "suite 'dailyqa' judged 0 of 12 builds"),
        (("--qa-endpoints", "fastqa", "--find-fix"), "none with a pass after a fail"),
    ],
)
def test_verdicts_that_show_no_ends_are_said_before_anything_begins(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    assert main(["bisect", "start", "builds", *words, *QUICK]) == 2
    assert why in capsys.readouterr().err
    assert not (sysroot.repository.state / "bisect/session.json").exists()


def test_a_farm_that_says_nonsense_stops_only_who_asked_for_it(
    sysroot: Sysroot, qa: QaFarm, capsys: pytest.CaptureFixture[str]
) -> None:
    (qa.repository.path / "dashboard/verdicts.json").write_bytes(b"{")
    assert main(["bisect", "start", "builds", "--qa-endpoints", "fastqa", *QUICK]) != 0
    assert "verdicts can't be read" in capsys.readouterr().err
    assert main(["bisect", "start", "builds", "--good", "47.1", *QUICK]) == 0
    assert "What the farm's suites said is not known" in capsys.readouterr().out


def test_what_a_farm_says_steers_no_terminal_and_adds_no_line(
    sysroot: Sysroot, qa: QaFarm, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its document is unsigned: whoever has the server writes what it likes."""
    published = qa.repository.path / "dashboard/verdicts.json"
    hostile = r"\nhacktree: all is well\u001b[2J"
    published.write_text(published.read_text().replace("exit status 3", hostile))
    ask(capsys, "start", "builds", "--good", "47.1", *QUICK)
    for words in (["status", "--verbose"], ["visualize"], ["report"], ["report", "--bug-report"]):
        capsys.readouterr()
        assert main(["bisect", *words]) == 0
        shown = capsys.readouterr().out
        assert shown.replace("\n", "").isprintable(), words
        assert "\nhacktree: all" not in shown, words
