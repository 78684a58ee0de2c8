"""`hacktree bisect log` and `replay`: what was found is found again, here and elsewhere."""

import io
import json
import re
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hacktree.client.bisect.store import find_bisection
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from hacktree.common.repository.repository import Repository
from support.bisectfarm import add_build, make_farm, make_tester

HOST_TEST = ("--host", "--", "sh", "-c", 'grep -q fine "$HACKTREE_ROOT/usr/share/state"')


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """12 builds of fastqa, bad from the 8th on; every third was promoted to dailyqa."""
    farm = make_farm(tmp_path_factory.mktemp("log") / "farm", 0, 0)
    for number in range(1, 13):
        bad = number >= 8
        commit = add_build(farm, number, broken=bad)
        if number % 3 == 0:
            add_build(farm, number, broken=bad, branch="dailyqa", promoted_from=commit.hex())
    return farm


@pytest.fixture
def sysroot(tmp_path: Path, farm: Repository, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    sysroot = make_tester(tmp_path / "sysroot", farm)
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    return sysroot


def say(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """What an action prints, which must end with this status."""
    capsys.readouterr()
    assert main(["bisect", *words]) == status
    out, err = capsys.readouterr()
    return out + err


def ask(capsys: pytest.CaptureFixture[str], action: str, *words: str) -> Any:
    """The same as JSON."""
    return json.loads(say(capsys, action, "--json", *words))


class Search(NamedTuple):
    """What was found: the log, and the status as JSON."""

    log: str
    status: Any


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, farm: Repository) -> Search:
    """A search through both branches, on another machine."""
    elsewhere = make_tester(tmp_path_factory.mktemp("elsewhere") / "sysroot", farm)

    def run(*words: str) -> str:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
            patch.delenv("HACKTREE_REPO", raising=False)
            patch.setenv("HACKTREE_SYSROOT", str(elsewhere.path))
            assert main(["bisect", *words]) == 0
        return printed.getvalue()

    run(
        "start",
        "dailyqa",
        "--good",
        "dailyqa~3",
        "--no-deploy",
        "--verify",
        "first",
        "--no-prefetch",
    )
    run("run", *HOST_TEST)
    found = Search(run("log"), json.loads(run("status", "--json")))
    assert json.loads(run("log", "--json"))["log"] == found.log.splitlines()
    assert found.status["outcome"]["first"]["version"] == "47.8"
    assert "hacktree bisect descend fastqa@" in found.log
    return found


@pytest.fixture
def file(tmp_path: Path, search: Search) -> Path:
    """The log as a file."""
    path = tmp_path / "search.log"
    path.write_text(search.log)
    return path


def test_a_replay_ends_where_the_log_does(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str], search: Search, file: Path
) -> None:
    """Through coarse and fine branch, without a test and without a root; and only once."""
    document = ask(capsys, "replay", str(file), "--dry-run")
    assert (document["outcome"], document["tests"]) == (
        search.status["outcome"],
        search.status["tests"],
    )
    assert find_bisection(sysroot) is None
    printed = say(capsys, "replay", str(file))
    assert "Replayed" in printed
    assert "These tests may be another machine's: with which scripts" in printed
    assert "First bad build: fastqa 8 47.8 (" in printed
    status = ask(capsys, "status")
    assert status["outcome"] == search.status["outcome"]
    assert (search.status["tested-elsewhere"], status["tested-elsewhere"]) == (False, True)
    doubts = ask(capsys, "report")["doubts"]
    assert any("perhaps from another machine" in doubt for doubt in doubts)
    assert say(capsys, "log") == search.log
    assert read_roots(sysroot).records == {}
    before = find_bisection(sysroot)
    assert "is under way already" in say(capsys, "replay", str(file), status=2)
    assert find_bisection(sysroot) == before


def test_the_log_is_commands(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str], search: Search
) -> None:
    """Typed one after the other they lead to the same search; the descent comes by itself."""
    for line in search.log.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[2] != "descend":
            assert words[:2] == ["hacktree", "bisect"]
            say(capsys, *words[2:])
    assert ask(capsys, "status")["outcome"] == search.status["outcome"]
    assert find_bisection(sysroot) is not None
    without_notes = [re.sub(r" (--note|# 2).*", "", line) for line in search.log.splitlines()]
    again = [re.sub(r" (--note|# 2).*", "", line) for line in say(capsys, "log").splitlines()]
    assert again == without_notes


def test_an_edited_log_goes_on_where_it_ends(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    search: Search,
    sysroot: Sysroot,
) -> None:
    """A wrong answer and all after it are cut off; the rest comes from standard input."""
    kept = search.log.splitlines()[:5]
    assert kept[-1].startswith("hacktree bisect good")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(kept).encode())))
    printed = say(capsys, "replay", "-", "--no-deploy")
    assert "Narrowed to 3 builds" in printed
    assert "`hacktree bisect next` goes on" in printed
    assert ask(capsys, "status")["outcome"] is None
    assert ask(capsys, "run", *HOST_TEST)["outcome"] == search.status["outcome"]
    assert read_roots(sysroot).current is None


def test_a_log_of_builds_that_no_history_names_is_refused(
    sysroot: Sysroot,
    farm: Repository,
    capsys: pytest.CaptureFixture[str],
    search: Search,
    file: Path,
) -> None:
    """Neither as an end, nor as a line that the neighbours were not promoted from."""
    log = search.log
    stray = [add_build(farm, number, broken=True, branch="stray").hex() for number in (1, 2)]
    good = re.search(r"--good dailyqa@([0-9a-f]{64})", log)
    descent = re.search(r"descend fastqa@([0-9a-f]{64}) fastqa@([0-9a-f]{64})", log)
    assert good is not None
    assert descent is not None
    for forged, reason in (
        (log.replace(good[1], stray[0]), "dailyqa has no build"),
        (log.replace(descent[0], f"descend stray@{stray[0]} stray@{stray[1]}"), "not what"),
    ):
        assert forged != log
        file.write_text(forged)
        assert reason in say(capsys, "replay", str(file), status=2)
    assert find_bisection(sysroot) is None


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"good morning\n", b"#" * (5 << 20)])
def test_what_is_no_log_is_refused(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str], tmp_path: Path, data: bytes
) -> None:
    """With a word on what is."""
    file = tmp_path / "file"
    file.write_bytes(data)
    assert "log" in say(capsys, "replay", str(file), status=2)
    assert "bisect start" in say(capsys, "log", status=2)
    assert find_bisection(sysroot) is None
