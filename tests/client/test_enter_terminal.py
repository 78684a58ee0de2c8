"""Job control of an entered program, under a real terminal and a real interactive shell."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from hacktree.client.sysroot import Sysroot
from support.enterable import deploy_shell, hacktree_command, require_root
from support.sysroots import make_sysroot

OUTSIDE = "outside> "
INSIDE = "inside> "
_SECONDS = 30


@pytest.fixture(scope="module")
def sysroot(tmp_path_factory: pytest.TempPathFactory) -> Sysroot:
    require_root()
    sysroot = make_sysroot(tmp_path_factory.mktemp("terminal") / "sysroot")
    deploy_shell(sysroot, 1)
    return sysroot


@pytest.fixture
def shell(sysroot: Sysroot) -> Iterator["pexpect.spawn[str]"]:
    """bash with job control, where `enter` enters the root."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("SUDO_")},
        "PS1": OUTSIDE,
        "TERM": "dumb",
    }
    command = " ".join(hacktree_command(sysroot, "enter"))
    with pexpect.spawn(
        "bash", ["--norc", "--noediting"], env=environment, encoding="utf-8", timeout=_SECONDS
    ) as child:
        child.expect_exact(OUTSIDE)
        child.sendline(f"enter() {{ {command} \"$@\"; }}; echo de''fined")
        child.expect_exact("defined")
        child.expect_exact(OUTSIDE)
        yield child


def status_of(child: "pexpect.spawn[str]", prompt: str) -> int:
    """What the last command of a shell ended with."""
    child.sendline("echo status=$?.")
    child.expect(r"status=(\d+)\.")
    assert isinstance(child.match, re.Match)
    status = int(child.match[1])
    child.expect_exact(prompt)
    return status


def start_waiting(child: "pexpect.spawn[str]", command: str) -> None:
    """Run a command that says when it is in the foreground."""
    child.sendline(command)
    child.expect(r"\r\nwaiting \d+\r\n")


WAIT = "sh -c 'echo waiting $$; read line; echo read $line'"


def test_ctrl_c_and_ctrl_z_reach_the_command_alone(
    shell: "pexpect.spawn[str]", sysroot: Sysroot
) -> None:
    """Stopped, the outer shell has the terminal; continued, the command; interrupted, 130."""
    program = " ".join(hacktree_command(sysroot, "enter", "--"))
    start_waiting(shell, f"{program} {WAIT}")
    shell.sendcontrol("z")
    shell.expect_exact("Stopped")
    shell.expect_exact(OUTSIDE)
    shell.sendline("fg")
    shell.expect_exact(program.split()[0])
    shell.sendline("a line")
    shell.expect_exact("read a line")
    shell.expect_exact(OUTSIDE)
    assert status_of(shell, OUTSIDE) == 0
    start_waiting(shell, f"{program} {WAIT}")
    shell.sendcontrol("c")
    shell.expect_exact(OUTSIDE)
    assert status_of(shell, OUTSIDE) == 130


_STOPS_EARLY = """
import os, signal
from hacktree.client.entering.session import begin_session

def start():
    os.kill(os.getpid(), signal.SIGTSTP)
    os.execv("/bin/echo", ["echo", "exe" + "cuted"])

raise SystemExit(begin_session(lambda: None).run(start))
"""


def test_a_command_stopped_before_it_executes_is_a_stopped_job(
    shell: "pexpect.spawn[str]", tmp_path: Path
) -> None:
    """Ctrl-Z may come that early: the outer shell has the terminal, and `fg` goes on."""
    (tmp_path / "early.py").write_text(_STOPS_EARLY)
    shell.sendline(f"{sys.executable} {tmp_path}/early.py")
    shell.expect_exact("Stopped")
    shell.expect_exact(OUTSIDE)
    shell.sendline("fg")
    shell.expect_exact("executed")
    shell.expect_exact(OUTSIDE)
    assert status_of(shell, OUTSIDE) == 0


def test_a_command_started_in_the_background_waits_for_the_terminal(
    shell: "pexpect.spawn[str]", sysroot: Sysroot
) -> None:
    """It stops when it reads, as any job would, and gets the terminal with `fg`."""
    program = " ".join(hacktree_command(sysroot, "enter", "--"))
    # Busybox's `read` waits in poll(2), which stops nobody; `cat` reads.
    shell.sendline(f"{program} sh -c 'echo waiting $$; exec cat' &")
    shell.expect(r"waiting \d+")
    shell.sendline("until jobs -s | grep -q enter; do :; done; echo sto''pped")
    shell.expect_exact("stopped")
    shell.expect_exact(OUTSIDE)
    shell.sendline("fg")
    shell.expect_exact(program.split()[0])
    shell.sendline("later")
    shell.expect_exact("later\r\nlater\r\n")
    shell.sendcontrol("d")
    shell.expect_exact(OUTSIDE)


def test_a_shell_inside_has_job_control_of_its_own(shell: "pexpect.spawn[str]") -> None:
    """Its jobs are stopped and continued, the window's size follows, its status comes out."""
    shell.sendline("enter")
    shell.expect_exact("`exit` leaves it")
    shell.expect_exact(OUTSIDE)
    shell.sendline(f"PS1='{INSIDE[:3]}''{INSIDE[3:]}'")
    shell.expect_exact(INSIDE)
    shell.setwinsize(33, 77)
    # The signal takes a moment through two terminals.
    shell.sendline("until stty size | grep -q '33 77'; do :; done; echo re''sized")
    shell.expect_exact("resized")
    shell.expect_exact(INSIDE)
    start_waiting(shell, WAIT)
    shell.sendcontrol("z")
    shell.expect_exact("Stopped")
    shell.expect_exact(INSIDE)
    shell.sendline("fg")
    shell.expect_exact("sh -c")
    shell.sendcontrol("c")
    shell.expect_exact(INSIDE)
    assert status_of(shell, INSIDE) == 130
    shell.sendline("exit 5")
    shell.expect_exact(OUTSIDE)
    assert status_of(shell, OUTSIDE) == 5


def test_signals_to_hacktree_reach_the_command(sysroot: Sysroot, tmp_path: Path) -> None:
    """The command decides what to do about them: each trap runs, and its status comes out."""
    script = (
        "trap 'echo winch' WINCH; trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM;"
        "echo ready; while :; do read line; done"
    )
    words = hacktree_command(sysroot, "enter", "--", "sh", "-c", script)
    with pexpect.spawn(words[0], words[1:], encoding="utf-8", timeout=_SECONDS) as child:
        child.expect_exact("ready")
        child.setwinsize(20, 40)
        child.expect_exact("winch")
        child.kill(signal.SIGUSR1)
        child.expect_exact("usr1")
        child.kill(signal.SIGTERM)
        child.expect_exact("term")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 9
