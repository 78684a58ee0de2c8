"""`hacktree config`, as a person and as a program see it."""

import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hacktree.client.replay.step import AfterFailure, Build, StepFailedError
from hacktree.client.scripts.answers import change_answers, read_answers
from hacktree.client.scripts.failure import Console, ask_after_failure
from hacktree.client.scripts.step import ScriptSource
from hacktree.client.triggers.step import TriggerStep
from hacktree.common.cli.main import main
from support.plain_root import PlainRoot
from support.programs import copy_programs
from support.sysroots import make_build, make_sysroot

SCRIPT = "#!/bin/sh\n# hacktree: network=yes\ntrue\n"


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sysroot into which nothing was pulled yet."""
    (tmp_path / "sysroot").mkdir()
    (tmp_path / "10-mine").write_text(SCRIPT)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(tmp_path / "sysroot"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sysroot"


def test_a_script_is_added_listed_switched_and_removed(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with a line that says what is now; before anything was pulled, too."""
    script = top / "etc/hacktree/config.d/10-mine"
    assert main(["config", "list"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["config", "add", "10-mine"]) == 0
    assert "hacktree config test 10-mine" in capsys.readouterr().out
    assert (script.read_text(), os.access(script, os.X_OK)) == (SCRIPT, True)
    assert main(["config", "add", "10-mine"]) == 2
    assert "already" in capsys.readouterr().err
    assert main(["config", "add", "10-mine", "--name", "05-same"]) == 0
    assert main(["config", "disable", "10-mine"]) == 0
    assert not script.exists()
    capsys.readouterr()
    assert main(["config", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["05-same", "enabled"], ["10-mine", "disabled"]]
    assert "network, at most 300 s" in lines[0]
    assert main(["config", "enable", "10-mine"]) == 0
    script.chmod(0o600)
    assert main(["config", "enable", "10-mine"]) == 0
    assert os.access(script, os.X_OK)
    assert main(["config", "enable", "10-mine"]) == 0
    assert "already enabled" in capsys.readouterr().out
    assert main(["config", "remove", "10-mine"]) == 0
    assert os.listdir(script.parent) == ["05-same"]
    assert main(["config", "remove", "10-mine"]) == 2
    assert "hacktree config list" in capsys.readouterr().err


def test_programs_get_json(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Name, state, digest, network and limit of each; why one is not run."""
    assert main(["config", "add", "10-mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "10-mine"}
    (top / "etc/hacktree/config.d/bad").write_text("")
    (top / "etc/hacktree/config.d/bad").chmod(0o755)
    assert main(["config", "list", "--json"]) == 0
    mine, bad = json.loads(capsys.readouterr().out)
    assert len(mine.pop("digest")) == 64
    assert mine == {
        "name": "10-mine",
        "state": "enabled",
        "network": True,
        "limit": 300,
        "problem": None,
    }
    assert (bad["state"], bad["digest"]) == ("invalid", None)
    assert "#!" in bad["problem"]


def test_a_script_may_come_through_a_pipe(
    top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then it needs a name."""
    pipe = io.TextIOWrapper(io.BytesIO(SCRIPT.encode()))
    monkeypatch.setattr(sys, "stdin", pipe)
    assert main(["config", "add", "-"]) == 2
    assert "--name" in capsys.readouterr().err
    assert main(["config", "add", "-", "--name", "30-piped"]) == 0
    assert (top / "etc/hacktree/config.d/30-piped").read_text() == SCRIPT


def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    path = tmp_path / "my editor"
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"'{path}' --wait")


def test_what_was_edited_is_checked_and_never_lost(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script is replaced by what is a script; anything else is kept where the error says."""
    script = top / "etc/hacktree/config.d/10-mine"
    assert main(["config", "add", "10-mine"]) == 0
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    editor(tmp_path, monkeypatch, 'test "$1" = --wait && echo "echo more" >>"$2"')
    assert main(["config", "edit", "10-mine"]) == 0
    assert script.read_text() == SCRIPT + "echo more\n"
    assert os.access(script, os.X_OK)
    assert list(tmp_path.glob("hacktree-edit-*")) == []
    editor(tmp_path, monkeypatch, 'mkdir "$(dirname "$2")/backup"')
    capsys.readouterr()
    assert main(["config", "edit", "10-mine"]) == 0
    assert "unchanged" in capsys.readouterr().out
    for program, reason in (
        ('echo "# hacktree: limit=never" >"$2.new"; cat "$2" >>"$2.new"; mv "$2.new" "$2"', "#!"),
        ('sed -i "s/network=yes/network=perhaps/" "$2"', "perhaps"),
        ('echo lost? >>"$2"; exit 3', "ended with 3"),
    ):
        before = script.read_text()
        editor(tmp_path, monkeypatch, program)
        assert main(["config", "edit", "10-mine"]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert script.read_text() == before
        (kept,) = tmp_path.glob("hacktree-edit-*/10-mine")
        assert str(kept) in error
        assert kept.read_text() != before
        kept.unlink()
        kept.parent.rmdir()
    monkeypatch.setenv("EDITOR", "no-such-editor")
    assert main(["config", "edit", "10-mine"]) == 2
    assert "Set VISUAL or EDITOR" in capsys.readouterr().err
    assert list(tmp_path.glob("hacktree-edit-*")) == []


def test_answers_by_command(
    top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Set on the command line or read from a pipe, listed without values, forgotten."""
    assert main(["config", "answer", "LOCALE=de_DE.UTF-8"]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("s3cret word\n"))
    assert main(["config", "answer", "WIFI_KEY"]) == 0
    file = top / "etc/hacktree/answers.env"
    assert file.read_text().splitlines()[1:] == ["LOCALE=de_DE.UTF-8", "WIFI_KEY='s3cret word'"]
    capsys.readouterr()
    assert main(["config", "answer"]) == 0
    assert capsys.readouterr().out == "LOCALE\nWIFI_KEY\n"
    assert main(["config", "answer", "--unset", "LOCALE", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ["WIFI_KEY"]
    assert main(["config", "answer", "--unset", "LOCALE"]) == 2
    assert main(["config", "answer", "not-a-key=1"]) == 2


def test_answers_that_are_given_at_once_are_all_kept(top: Path) -> None:
    """By two people, or a script that starts several commands."""

    def answer(who: int) -> None:
        for number in range(10):
            change_answers(top, {f"KEY_{who}_{number}": "yes"}, [])

    with ThreadPoolExecutor() as pool:
        list(pool.map(answer, range(3)))
    assert len(read_answers(top)) == 30


def test_what_a_person_may_do_after_a_failure(top: Path, tmp_path: Path) -> None:
    """Asked until there is an answer; a shell changes nothing; only a script can be left out."""
    sysroot = make_sysroot(tmp_path / "other")
    (sysroot.path / "etc/hacktree/config.d").mkdir()
    script = sysroot.path / "etc/hacktree/config.d/10-a"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    commit = make_build(sysroot, 1)
    (tmp_path / "root").mkdir()
    build = Build(sysroot, commit, sysroot.repository.load_commit(commit), None)
    root = PlainRoot(tmp_path / "root", build)
    copy_programs(root.path, "sh")
    (step,) = ScriptSource().steps(build)
    error = StepFailedError("it failed", hint="do this", log="\n".join(map(str, range(30))))
    told: list[str] = []

    def ask(*answers: str) -> AfterFailure:
        lines = iter(answers)

        def reply(prompt: str) -> str:
            told.append(prompt)
            line = next(lines, None)
            if line is None:
                raise EOFError
            return line

        return ask_after_failure(Console(reply, told.append), step, error, root)

    assert ask("what", " R ") is AfterFailure.RETRY
    assert told[:2] == ["| … 10 lines before", "| 10"]
    assert "hacktree: script 10-a failed: it failed" in told
    assert "  do this" in told
    assert told[-2:] == ["(r)etry, (s)hell in this root, s(k)ip it this time, (a)bort? "] * 2
    assert ask("k") is AfterFailure.SKIP
    assert ask("a") is AfterFailure.ABORT
    assert ask() is AfterFailure.ABORT
    step = TriggerStep(0)
    told.clear()
    assert ask("k", "a") is AfterFailure.ABORT
    assert "s(k)ip" not in "".join(told)
