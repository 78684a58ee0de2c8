"""Promise: a suite's command is bounded in time and output, and nothing of it outlives its run."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hacktree.server.promotion.command import (
    CommandMissingError,
    CommandRun,
    Heartbeat,
    Job,
    run_command,
    suite_environment,
)
from hacktree.server.promotion.logs import MAX_LOG
from hacktree.server.promotion.verdicts import Outcome

NEVER = Heartbeat(lambda: None, 3600)


def run(
    directory: Path,
    *command: str,
    limit: float = 60,
    grace: float = 60,
    heartbeat: Heartbeat = NEVER,
    monotonic: Callable[[], float] = time.monotonic,
) -> CommandRun:
    environment = suite_environment(directory / "root", "ab" * 32, "builds", directory)
    job = Job(command, environment, directory, limit, grace)
    return run_command(job, heartbeat, monotonic)


def script(*lines: str) -> Sequence[str]:
    return sys.executable, "-c", "\n".join(lines)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(log: bytes) -> list[int]:
    return [int(word) for word in log.split()]


@pytest.mark.parametrize(
    ("status", "outcome"), [(0, Outcome.PASS), (1, Outcome.FAIL), (125, Outcome.INCONCLUSIVE)]
)
def test_the_exit_status_decides(tmp_path: Path, status: int, outcome: Outcome) -> None:
    done = run(tmp_path, "/bin/sh", "-c", f"echo out; echo err >&2; exit {status}")
    assert done.finding.outcome is outcome
    assert sorted(done.log.split()) == [b"err", b"out"]
    assert done.duration >= 0


def test_a_crash_is_a_fail(tmp_path: Path) -> None:
    done = run(tmp_path, "/bin/sh", "-c", "kill -SEGV $$")
    assert done.finding.reason == "killed by SIGSEGV"


def test_the_environment_is_what_is_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "of the runner")
    log = run(tmp_path, "/usr/bin/env").log.decode()
    seen = dict(line.split("=", 1) for line in log.splitlines())
    assert set(seen) <= {
        "HACKTREE_ROOT", "HACKTREE_BUILD", "HACKTREE_BRANCH", "HOME", "TMPDIR", "PATH", "LANG",
    }  # fmt: skip
    assert seen["HACKTREE_ROOT"] == str(tmp_path / "root")
    assert seen["HACKTREE_BUILD"] == "ab" * 32
    assert seen["HACKTREE_BRANCH"] == "builds"


def test_it_reads_nothing_and_gains_no_privileges(tmp_path: Path) -> None:
    done = run(tmp_path, "/bin/sh", "-c", "cat; grep NoNewPrivs /proc/self/status")
    assert done.finding.outcome is Outcome.PASS
    assert done.log.split() == [b"NoNewPrivs:", b"1"]


def test_a_group_that_ignores_sigterm_is_gone_after_the_limit(tmp_path: Path) -> None:
    """It forks, and all of it ignores SIGTERM; one half even has a session of its own."""
    ready = tmp_path / "ready"
    done = run(
        tmp_path,
        *script(
            "import os, signal",
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            "heard, told = os.pipe()",
            "for session in (False, True):",
            "    if not os.fork():",
            "        if session: os.setsid()",
            "        os.write(1, b'%d ' % os.getpid())",
            "        os.write(told, b'.')",
            "        while True: signal.pause()",
            "    os.read(heard, 1)",
            "os.write(1, b'%d ' % os.getpid())",
            f"open({str(ready)!r}, 'w').close()",
            "while True: signal.pause()",
        ),
        limit=1e6,
        grace=0.2,
        heartbeat=Heartbeat(lambda: None, 0.05),
        # The limit is reached as soon as the command is where it should be.
        monotonic=lambda: time.monotonic() + (2e6 if ready.exists() else 0),
    )
    assert done.finding.outcome is Outcome.FAIL
    assert "longer than 1e+06 s" in done.finding.reason
    assert len(pids(done.log)) == 3
    assert not any(alive(pid) for pid in pids(done.log))


def test_a_daemon_does_not_outlive_a_pass(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        *script(
            "import os, signal",
            "ready, told = os.pipe()",
            "if not os.fork():",
            "    os.setsid()",
            "    if not os.fork():",
            "        os.write(1, b'%d ' % os.getpid())",
            "        os.write(told, b'.')",
            "        while True: signal.pause()",
            "    os._exit(0)",
            "os.read(ready, 1)",
        ),
    )
    assert done.finding.outcome is Outcome.PASS
    (daemon,) = pids(done.log)
    assert not alive(daemon)


def test_children_that_were_there_before_are_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as other:
        run(tmp_path, "/bin/true")
        assert other.poll() is None


def test_output_without_end_takes_bounded_memory(tmp_path: Path) -> None:
    done = run(tmp_path, "/bin/sh", "-c", "head -c 20000000 /dev/zero; echo the end")
    assert done.finding.outcome is Outcome.PASS
    assert len(done.log) <= MAX_LOG
    assert done.log.endswith(b"the end\n")


def test_whoever_loses_the_lease_stops_at_once(tmp_path: Path) -> None:
    class LostError(Exception):
        pass

    def beat() -> None:
        raise LostError

    with pytest.raises(LostError):
        run(
            tmp_path, "/bin/sh", "-c", "echo $$ >pid; exec sleep 3600",
            heartbeat=Heartbeat(beat, 0.5), grace=0.5,
        )  # fmt: skip
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_missing_command_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(CommandMissingError, match="/no/such/suite"):
        run(tmp_path, "/no/such/suite")


def test_a_killed_runner_takes_its_command_along(tmp_path: Path) -> None:
    """Else a build would be tested twice at once when its lease has expired."""
    shutil.copy("/bin/sleep", tmp_path / "suite")
    runner = subprocess.Popen(
        [
            *script(
                "import sys, time",
                "from pathlib import Path",
                "from hacktree.server.promotion.command import *",
                "here = Path(sys.argv[1])",
                "script = 'echo $$ >pid.tmp; mv pid.tmp pid; exec ./suite 3600'",
                "job = Job(('/bin/sh', '-c', script), {}, here, 3600)",
                "def beat():",
                "    if (here / 'pid').exists(): print('running', flush=True)",
                "run_command(job, Heartbeat(beat, 0.05), time.monotonic)",
            ),
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    with runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == b"running\n"
        pid = int((tmp_path / "pid").read_text())
        ending = os.pidfd_open(pid)
        runner.send_signal(signal.SIGKILL)
        try:
            assert select.select([ending], [], [], 60)[0]
        finally:
            os.close(ending)
