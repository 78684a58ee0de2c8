"""Promise: in a container a command sees its build; no network, repository, token or process."""

import os
import time
from pathlib import Path

import pytest

from hacktree.server.promotion.command import CommandMissingError, Heartbeat, Job, run_command
from hacktree.server.promotion.logs import log_path
from hacktree.server.promotion.sandbox import Confinement, Sandbox, SandboxMissingError
from hacktree.server.promotion.verdicts import Outcome, Verdict
from support.pulling import make_repository
from support.qa import QaFarm, scratch_left


def contained(tmp_path: Path, command: str) -> tuple[Verdict, str]:
    """Run a suite in a container; returns the verdict and the log."""
    farm = QaFarm(make_repository(tmp_path / "farm"), command)
    farm.build("seven")
    token = tmp_path / "token"
    token.write_text("secret")
    confinement = Confinement(Sandbox.CONTAINER, (farm.repository.path, token))
    confinement.require()
    verdict = farm.run(confinement=confinement)
    assert isinstance(verdict, Verdict)
    assert scratch_left(farm.repository) == []
    log = log_path(farm.repository, verdict.log).read_text() if verdict.log else ""
    return verdict, log


def test_it_works_on_its_build(tmp_path: Path) -> None:
    verdict, log = contained(
        tmp_path,
        "cat $HACKTREE_ROOT/etc/version; pwd; echo $TMPDIR; echo x >$HACKTREE_ROOT/new && "
        "echo y >here",
    )
    assert verdict.outcome is Outcome.PASS, log
    version, directory, temporary = log.replace("seven", "seven ").split()
    assert (version, directory) == ("seven", temporary)


@pytest.mark.parametrize("status", [0, 3, 125])
def test_its_exit_status_is_the_suites(tmp_path: Path, status: int) -> None:
    verdict, _ = contained(tmp_path, f"exit {status}")
    expected = {0: Outcome.PASS, 3: Outcome.FAIL, 125: Outcome.INCONCLUSIVE}
    assert verdict.outcome is expected[status]


def test_it_sees_neither_repository_nor_token(tmp_path: Path) -> None:
    farm, token = tmp_path / "farm", tmp_path / "token"
    verdict, log = contained(
        tmp_path, f"ls -A {farm} {farm}/state/qa 2>&1; cat {token}; ls -A /home /root; true"
    )
    assert verdict.outcome is Outcome.PASS
    assert "server.sqlite" not in log
    assert "objects" not in log
    assert "secret" not in log


def test_it_can_not_write_to_the_host(tmp_path: Path) -> None:
    verdict, log = contained(tmp_path, "touch /etc/hacktree-was-here 2>&1; touch /usr/x 2>&1; true")
    assert verdict.outcome is Outcome.PASS
    assert log.count("Read-only file system") == 2


def test_it_has_no_network_and_no_neighbours(tmp_path: Path) -> None:
    verdict, log = contained(
        tmp_path,
        "cat /proc/net/dev | grep -c :; ls /proc | grep -c ^[0-9]; grep CapEff /proc/$$/status",
    )
    interfaces, processes, _, capabilities = log.split()
    assert int(interfaces) == 1, "loopback alone"
    assert int(processes) < 10
    assert int(capabilities, 16) in (0, 1 << 18), "none, or CAP_SYS_CHROOT"
    assert verdict.outcome is Outcome.PASS


def test_it_is_gone_after_the_limit(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    script = "trap '' TERM; (setsid sleep 3600 &) ; touch ready; while :; do sleep 3600; done"
    environment = {"HACKTREE_TEST": str(place), "PATH": "/bin:/usr/bin"}
    job = Job(["/bin/sh", "-c", script], environment, place, 1e6, 0.2)
    marked = Confinement(Sandbox.CONTAINER).contained(job, place)
    done = run_command(
        marked,
        Heartbeat(lambda: None, 0.05),
        lambda: time.monotonic() + (2e6 if (place / "ready").exists() else 0),
    )
    assert done.finding.outcome is Outcome.FAIL
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _carries(pid, str(place))]


def _carries(pid: str, mark: str) -> bool:
    try:
        return mark.encode() in Path("/proc", pid, "environ").read_bytes()
    except OSError:
        return False


def test_a_missing_command_is_no_verdict(tmp_path: Path) -> None:
    confinement = Confinement(Sandbox.CONTAINER)
    with pytest.raises(CommandMissingError):
        confinement.contained(Job(["/no/such/suite"], {}, tmp_path, 60), tmp_path)


def test_a_machine_without_containers_is_told_before_anything_is_claimed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hacktree.server.promotion.sandbox.SEARCH_PATH", "/nowhere")
    with pytest.raises(SandboxMissingError, match="bwrap"):
        Confinement(Sandbox.CONTAINER).require()
    Confinement().require()
