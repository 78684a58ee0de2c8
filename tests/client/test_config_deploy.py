"""Config scripts in real deploys, and what a person is offered when one fails."""

import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pexpect
import pytest

from hacktree.client.roots import read_roots
from hacktree.client.scripts.answers import write_answers
from hacktree.client.scripts.store import add_script
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from support.busybox import make_runnable_build
from support.documents import commands_in, script_in
from support.sysroots import assert_nothing_left_over, make_sysroot


@pytest.fixture
def sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(tmp_path / "sysroot"))
    return make_sysroot(tmp_path / "sysroot")


def add(sysroot: Sysroot, name: str, script: str) -> Path:
    add_script(sysroot.path, name, f"#!/bin/sh\n{script}".encode(), 0o755)
    return sysroot.path / "etc/hacktree/config.d" / name


def read(sysroot: Sysroot, path: str) -> str:
    return (sysroot.link / path).read_text()


def test_scripts_run_in_order_in_the_new_root(
    sysroot: Sysroot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each finds what is documented, and its changes are in the root that goes live."""
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "1")
    commit = make_runnable_build(sysroot, 1)
    assert main(["deploy", "fastqa"]) == 0
    add(
        sysroot,
        "20-second",
        "cat /etc/first >/etc/second\n. $HACKTREE_ANSWERS\necho $LOCALE >>/etc/second\n",
    )
    add(
        sysroot,
        "10-first",
        "env >/etc/first\n"
        "cat $HACKTREE_PREVIOUS_ROOT/usr/lib/os-release >/etc/previous\n"
        "! touch $HACKTREE_PREVIOUS_ROOT/usr/mine\n"
        "readlink /proc/self/ns/net >/etc/network\n",
    )
    add(
        sysroot,
        "30-online",
        "# hacktree: network=yes\nreadlink /proc/self/ns/net >/etc/network-online\n",
    )
    (sysroot.path / "etc/hacktree/config.d/README").write_text("what these are for\n")
    write_answers(sysroot.path, {"LOCALE": "de_DE"})
    capsys.readouterr()
    assert main(["deploy", "fastqa"]) == 0
    captured = capsys.readouterr()
    assert "script 10-first" in captured.out
    assert "README is not run: it is not executable" in captured.err
    seen = dict(line.split("=", 1) for line in read(sysroot, "etc/first").splitlines())
    assert {name: value for name, value in seen.items() if name.startswith("HACKTREE")} == {
        "HACKTREE_ROOT": "/",
        "HACKTREE_BUILD": commit.hex(),
        "HACKTREE_BRANCH": "fastqa",
        "HACKTREE_PREVIOUS_ROOT": "/run/hacktree/previous",
        "HACKTREE_ANSWERS": "/run/hacktree/answers.env",
    }
    assert seen["SOURCE_DATE_EPOCH"] == "1700000001"
    assert seen["HOME"] == "/root"
    assert "SECRET_OF_THE_CALLER" not in seen
    assert read(sysroot, "etc/second").endswith("de_DE\n")
    assert read(sysroot, "etc/previous") == "VERSION=1\n"
    here = os.readlink("/proc/self/ns/net")
    assert read(sysroot, "etc/network").strip() != here
    assert read(sysroot, "etc/network-online").strip() == here
    assert os.listdir(sysroot.link / "run") == []
    assert main(["deploy", "fastqa"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    write_answers(sysroot.path, {"LOCALE": "fr_FR"})
    assert main(["deploy", "fastqa"]) == 0
    assert read(sysroot, "etc/second").endswith("fr_FR\n")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo to no avail\nexit 3\n", "status 3"),
        ("# hacktree: limit=1\necho to no avail\nsleep 100 & sleep 100\n", "1 s"),
    ],
)
def test_a_failure_swaps_nothing_and_says_what_to_do(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str], script: str, reason: str
) -> None:
    """Where nobody can be asked: exit status 1, the log, the script, the next command."""
    make_runnable_build(sysroot, 1)
    assert main(["deploy", "fastqa"]) == 0
    live = read_roots(sysroot).current
    add(sysroot, "10-fail", script)
    capsys.readouterr()
    assert main(["deploy", "fastqa"]) == 1
    error = capsys.readouterr().err
    assert "| to no avail\n" in error
    assert re.search(f"script 10-fail failed: .*{reason}", error)
    assert "hacktree config test 10-fail" in error
    log = re.search(r"(/\S+\.log)", error)
    assert log is not None
    assert Path(log[1]).read_text() == "to no avail\n"
    assert read_roots(sysroot).current == live
    assert_nothing_left_over(sysroot.path)


def deploy_on_a_terminal(sysroot: Sysroot) -> "pexpect.spawn[str]":
    return on_a_terminal(sysroot, "deploy", "fastqa")


def on_a_terminal(sysroot: Sysroot, *words: str) -> "pexpect.spawn[str]":
    child: pexpect.spawn[str] = pexpect.spawn(
        str(Path(sys.executable).with_name("hacktree")),
        ["--sysroot", str(sysroot.path), *words],
        encoding="utf-8",
        timeout=30,
        env={**os.environ, "TERM": "dumb"},
    )
    return child


def finish(child: "pexpect.spawn[str]") -> int:
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus is not None
    return int(child.exitstatus)


def test_on_a_terminal_a_person_gets_a_shell_in_the_very_root(sysroot: Sysroot) -> None:
    """It is as the script left it; the script is mended from outside and tried again."""
    make_runnable_build(sysroot, 1)
    script = add(sysroot, "10-fail", "echo half >/etc/half\nno-such-program\n")
    child = deploy_on_a_terminal(sysroot)
    child.expect("no-such-program: not found")
    child.expect("script 10-fail failed")
    child.expect(r"\(r\)etry, \(s\)hell in this root, s\(k\)ip it this time, \(a\)bort\? ")
    child.sendline("s")
    child.expect("# ")
    child.sendline("cat /etc/half; echo $HACKTREE_BRANCH; tty; exit 7")
    child.expect("half\r\n")
    child.expect("fastqa\r\n")
    child.expect("ended with 7")
    child.expect(r"\(r\)etry")
    script.write_text("#!/bin/sh\necho whole >/etc/whole\n")
    child.sendline("r")
    child.expect("is live")
    assert finish(child) == 0
    assert read(sysroot, "etc/whole") == "whole\n"
    assert not (sysroot.link / "etc/half").exists(), "what the failed attempt wrote is dropped"
    assert_nothing_left_over(sysroot.path)


def test_on_a_terminal_a_script_is_skipped_once(sysroot: Sysroot) -> None:
    """That root isn't taken for one with the script: the next deploy tries it; Ctrl-C ends that."""
    make_runnable_build(sysroot, 1)
    add(sysroot, "10-fail", "exit 1\n")
    add(sysroot, "20-fine", "echo fine >/etc/fine\n")
    child = deploy_on_a_terminal(sysroot)
    child.expect(r"\(a\)bort\? ")
    child.sendline("k")
    child.expect("is live")
    assert finish(child) == 0
    assert read(sysroot, "etc/fine") == "fine\n"
    live = read_roots(sysroot).current
    child = deploy_on_a_terminal(sysroot)
    child.expect(r"\(a\)bort\? ")
    child.sendintr()
    assert finish(child) in (1, 130)
    assert read_roots(sysroot).current == live
    assert_nothing_left_over(sysroot.path)


def test_in_the_background_the_terminal_stays_whose_it_is(sysroot: Sysroot) -> None:
    """A shell that loses it stops; without a controlling terminal there is none to take."""
    make_runnable_build(sysroot, 1)
    add(sysroot, "10-fine", "echo fine >/etc/fine\n")
    command = f"{Path(sys.executable).with_name('hacktree')} --sysroot {sysroot.path} deploy fastqa"
    for line in (command, f"setsid --wait {command} --replay"):
        job = shlex.quote(f"{line}; echo ended $?; cut -d' ' -f8 /proc/$$/stat")
        shell = f"set -m; echo shell $$; sh -c {job} & wait $!"
        child: pexpect.spawn[str] = pexpect.spawn(
            "bash", ["-c", shell], encoding="utf-8", timeout=30
        )
        child.expect(r"shell (\d+)\r\n")
        assert isinstance(child.match, re.Match)
        child.expect(rf"ended 0\r\n{child.match[1]}\r\n")
        assert finish(child) == 0
    add(sysroot, "20-fail", "exit 3\n")
    child = pexpect.spawn("setsid", ["--wait", *shlex.split(command)], encoding="utf-8", timeout=30)
    child.expect(r"\(a\)bort\? ")
    child.sendline("a")
    child.expect("script 20-fail failed: .*exit status 3")
    assert finish(child) == 1


def test_a_trial_shows_what_each_script_changes_and_leaves_nothing(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against what came before it: paths, attributes, the text of small files; then all is gone."""
    make_runnable_build(
        sysroot,
        1,
        {
            "etc/hosts": b"127.0.0.1 localhost\n",
            "etc/old/one": b"1",
            "etc/old/two": b"2",
            "etc/motd": b"hello\n",
            "usr/share/same": b"same",
            "etc/swap": b"file\n",
        },
    )
    assert main(["deploy", "fastqa"]) == 0
    live = read_roots(sysroot)
    add(sysroot, "10-first", "echo 10.0.0.1 farm >>/etc/hosts\nln -s hosts /etc/link\n")
    add(
        sysroot,
        "20-second",
        "echo working\n"
        "echo 10.0.0.2 lab >>/etc/hosts\n"
        "rm -r /etc/old; mkdir /etc/old; echo 3 >/etc/old/three\n"
        "chmod 600 /etc/motd\n"
        "touch /usr/share/same\n"
        "rm /etc/swap; mkdir /etc/swap\n"
        "rm /etc/link\n"
        "echo x >/etc/gone; rm /etc/gone\n"
        "head -c 100000 /dev/zero >/etc/zeros 2>/dev/null || cp /usr/bin/busybox /etc/zeros\n",
    )
    add(
        sysroot,
        "30-third",
        "echo again >/etc/old/one; echo file >/etc/link; rm -r /etc/swap; echo 1 >/etc/swap\n"
        "chmod 700 /usr/share\n"
        "i=0; while test $i -lt 300; do echo $i; i=$((i+1)); done >/etc/long\n"
        "ln -sf cat /usr/bin/ls\n",
    )
    capsys.readouterr()
    assert main(["config", "test", "--json"]) == 0
    first, second, third = json.loads(capsys.readouterr().out)
    assert [(c["change"], c["path"]) for c in first["changes"]] == [
        ("changed", "/etc/hosts"),
        ("added", "/etc/link"),
    ]
    assert first["changes"][1]["text"] == ["@@ -0,0 +1 @@", "+→ hosts"]
    assert second["log"] == "working\n"
    changes = {change["path"]: change for change in second["changes"]}
    assert [(c["change"], path) for path, c in changes.items()] == [
        ("changed", "/etc/hosts"),
        ("deleted", "/etc/link"),
        ("attributes", "/etc/motd"),
        ("deleted", "/etc/old/one"),
        ("deleted", "/etc/old/two"),
        ("added", "/etc/old/three"),
        ("deleted", "/etc/swap"),
        ("added", "/etc/swap/"),
        ("added", "/etc/zeros"),
    ]
    assert changes["/etc/hosts"]["text"] == [
        "@@ -1,2 +1,3 @@",
        " 127.0.0.1 localhost",
        " 10.0.0.1 farm",
        "+10.0.0.2 lab",
    ]
    assert changes["/etc/motd"]["text"] == ["mode 0644 → 0600"]
    assert changes["/etc/zeros"]["text"] == []
    assert [(c["change"], c["path"]) for c in third["changes"]] == [
        ("added", "/etc/link"),
        ("added", "/etc/long"),
        ("added", "/etc/old/one"),
        ("deleted", "/etc/swap/"),
        ("added", "/etc/swap"),
        ("changed", "/usr/bin/ls"),
        ("attributes", "/usr/share/"),
    ]
    texts = {change["path"]: change["text"] for change in third["changes"]}
    assert texts["/usr/share/"] == ["mode 0755 → 0700"]
    assert texts["/usr/bin/ls"] == ["@@ -1 +1 @@", "-→ busybox", "+→ cat"]
    assert (len(texts["/etc/long"]), texts["/etc/long"][-1]) == (201, "… 101 lines more")
    assert main(["config", "test", "10-first"]) == 0
    out = capsys.readouterr().out
    assert "script 10-first: " in out
    assert "M /etc/hosts\n    @@ -1 +1,2 @@\n" in out
    assert "20-second" not in out
    after = read_roots(sysroot)
    assert (after.records, after.current) == (live.records, live.current)
    assert_nothing_left_over(sysroot.path)
    assert [name for name in os.listdir(sysroot.replay) if name != "failed.log"] == []


def test_a_trial_runs_a_disabled_script_and_reports_a_failure(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of any build that is here; a failure is one, and leaves nothing either."""
    make_runnable_build(sysroot, 1)
    add(sysroot, "10-fail", "echo to no avail\nexit 3\n")
    assert main(["config", "disable", "10-fail"]) == 0
    assert main(["config", "test"]) == 2
    assert "--revision" in capsys.readouterr().err
    assert main(["config", "test", "--revision", "fastqa"]) == 0
    assert "no config scripts" in capsys.readouterr().out
    assert main(["config", "test", "10-fail", "--revision", "fastqa"]) == 1
    error = capsys.readouterr().err
    assert "| to no avail\n" in error
    assert "script 10-fail failed: " in error
    assert os.listdir(sysroot.roots) == []
    assert main(["config", "test", "nosuch", "--revision", "fastqa"]) == 2
    assert_nothing_left_over(sysroot.path)


def test_status_tells_what_each_step_took(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the deploy did; None where its layer was there; a plan that is to replay says that it runs
    again.
    """

    def told(*words: str) -> dict[str, float | None]:
        capsys.readouterr()
        assert main(["deploy", "fastqa", "--json", *words]) == 0
        steps = json.loads(capsys.readouterr().out)["steps"]
        return {step["name"]: None if step["cached"] else step["seconds"] for step in steps}

    make_runnable_build(sysroot, 1)
    add(sysroot, "10-first", "true\n")
    first = told()
    assert main(["deploy", "fastqa", "--replay", "--dry-run"]) == 0
    assert "step script 10-first (to run)" in capsys.readouterr().out
    replayed = told("--replay")
    add(sysroot, "20-next", "true\n")
    last = told()
    assert main(["status", "--json"]) == 0
    roots = json.loads(capsys.readouterr().out)["roots"]
    took = [{step["name"]: step["seconds"] for step in root["steps"]} for root in roots]
    assert took == [last, replayed, first]
    assert last["script 10-first"] is None
    for seconds in (first["script 10-first"], replayed["script 10-first"], last["script 20-next"]):
        assert seconds is not None
        assert seconds > 0
    assert {"check out", "replay"} <= roots[0]["seconds"].keys()
    assert main(["status", "--verbose"]) == 0
    assert "step script 10-first: cached" in capsys.readouterr().out


def test_in_a_trial_a_person_may_skip_a_script_too(sysroot: Sysroot) -> None:
    """What the others do is shown, and that one failed."""
    make_runnable_build(sysroot, 1)
    add(sysroot, "10-fail", "echo half >/etc/half\nexit 3\n")
    add(sysroot, "20-fine", "ls /etc/half || echo fine >/etc/fine\n")
    child = on_a_terminal(sysroot, "config", "test", "--revision", "fastqa")
    child.expect(r"s\(k\)ip it this time, \(a\)bort\? ")
    child.sendline("k")
    child.expect("script 20-fine: .* 1 added")
    child.expect("A /etc/fine")
    child.expect("script 10-fail failed and was skipped")
    assert finish(child) == 1
    assert_nothing_left_over(sysroot.path)


def test_a_trial_that_is_killed_is_cleaned_up(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while somebody is asked, with the failed root mounted: what it left is recognised."""
    make_runnable_build(sysroot, 1)
    add(sysroot, "10-fail", "echo half >/etc/half; exit 1\n")
    child = on_a_terminal(sysroot, "config", "test", "--revision", "fastqa")
    child.expect(r"\(a\)bort\? ")
    child.kill(signal.SIGKILL)
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus == signal.SIGKILL
    assert main(["status"]) == 0
    assert "delete the unfinished root .tmp-" in capsys.readouterr().out
    assert main(["cleanup"]) == 0
    assert os.listdir(sysroot.roots) == []
    assert_nothing_left_over(sysroot.path)


def test_the_guide(
    sysroot: Sysroot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The script and the commands that docs/operations.md shows do what it says."""
    make_runnable_build(sysroot, 1, {"etc/hosts": b"127.0.0.1 localhost\n"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITOR", "true")
    monkeypatch.delenv("VISUAL", raising=False)
    (tmp_path / "10-lab").write_text(script_in("Config scripts"))
    for line in commands_in("Config scripts"):
        program, *words = shlex.split(line)
        assert program == "hacktree"
        assert main(words) == 0, line
    out = capsys.readouterr().out
    assert "A /etc/locale.conf\n    @@ -0,0 +1 @@\n    +LANG=de_DE.UTF-8\n" in out
    assert "10-lab                   enabled  at most 60 s\n" in out
    assert read(sysroot, "etc/hosts") == "127.0.0.1 localhost\n10.0.0.5 farm\n"
