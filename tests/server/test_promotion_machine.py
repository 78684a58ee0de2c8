"""Promise: with --sandbox vm a suite tests the build booted, and nothing of the host is in reach.

These boot real machines, which takes seconds: what can be seen in one boot is looked at in one.
"""

import json
import os
import re
import select
import subprocess
from pathlib import Path

import pytest

from hacktree.common.objects.ids import ObjectId
from hacktree.server.promotion.logs import log_path
from hacktree.server.promotion.machine.qemu import EMULATION, QEMU, kernel_speaks
from hacktree.server.promotion.sandbox import Confinement, Sandbox, SandboxMissingError
from hacktree.server.promotion.scratch import remove_dead
from hacktree.server.promotion.verdicts import Outcome, Verdict
from support.bootable import bootable_tree, kernel_release, systemd_tree
from support.documents import commands_in
from support.pulling import make_repository
from support.qa import QaFarm, scratch_left
from support.servers import hacktree_program
from support.trees import File, make_commit

SUITE = """\
#!/bin/sh
uname -r
echo "$HACKTREE_ROOT $HACKTREE_BUILD $HACKTREE_BRANCH"
cat /etc/version
. "${0%/*}/more"
"""
MORE = """\
echo x >/etc/new && echo x >here && test "$PWD" = "$HOME" && test "$TMPDIR" = "$HOME" && echo writes
echo x >"${0%/*}/new" || echo suite is read-only
echo $(ls /sys/class/net) $(ls -A / | grep lost)
echo argument: $1
ls -ln /usr/bin/su
exit 0
"""
PANIC = """\
ls -l /proc/$$/exe
line=0
while [ $line -lt 300 ]; do
    echo "suite $line"
    echo "<0>kernel $line" >/dev/kmsg
    line=$((line + 1))
done
echo c >/proc/sysrq-trigger
exit 0
"""


@pytest.fixture
def farm(tmp_path: Path) -> QaFarm:
    return QaFarm(make_repository(tmp_path / "farm"))


def define(farm: QaFarm, command: list[str], limit: str = "10m") -> None:
    (farm.repository.path / "server.toml").write_text(
        f"[suites.fastqa]\nsource = 'builds'\ncommand = {json.dumps(command)}\nlimit = '{limit}'\n"
    )


def build(farm: QaFarm, *without: str) -> ObjectId:
    tree = {
        path: spec
        for path, spec in bootable_tree().items()
        if not any(part in str(path) for part in without)
    }
    tree["usr/bin/su"] = File(b"", 0o4755, 0, 7)
    return make_commit(farm.repository, tree, branch="builds")


def judged(farm: QaFarm) -> tuple[Verdict, str]:
    confinement = Confinement(Sandbox.VM, (farm.repository.path,))
    confinement.require()
    verdict = farm.run(confinement=confinement)
    assert isinstance(verdict, Verdict)
    assert scratch_left(farm.repository) == []
    assert not machines_of(farm)
    log = log_path(farm.repository, verdict.log).read_text() if verdict.log else ""
    return verdict, log


def machines_of(farm: QaFarm) -> list[int]:
    """Processes of QEMU whose directory is this farm's; not those that try whether KVM works."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            place = os.readlink(f"/proc/{pid}/cwd")
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if place.startswith(str(farm.repository.path)) and b"path=answer" in command:
            found.append(int(pid))
    return found


def test_a_suite_passes_in_the_booted_build(farm: QaFarm, tmp_path: Path) -> None:
    """Its directory comes along; the kernel, the programs and the files are the build's."""
    directory = tmp_path / "qa of ours"
    directory.mkdir()
    (directory / "suite").write_text(SUITE)
    (directory / "suite").chmod(0o755)
    (directory / "more").write_text(MORE)
    define(farm, [str(directory / "suite"), "it's $HOME"])
    built = build(farm)
    (shown,) = commands_in("In a virtual machine")
    program, *arguments = shown.replace("/srv/hacktree", str(farm.repository.path)).split()
    assert program == "hacktree"
    done = subprocess.run(
        [hacktree_program(), *arguments, "--processors", "1", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    verdict = json.loads(done.stdout)
    log = log_path(farm.repository, verdict["log"]).read_text()
    assert (verdict["outcome"], verdict["build"]) == ("pass", built.hex()), log
    lines = iter(log.splitlines())
    assert next(lines) == kernel_release()
    assert next(lines) == f"/ {built.hex()} builds"
    assert next(lines) == "seven"
    assert next(lines) == "writes"
    assert "Read-only file system" in next(lines)
    assert next(lines) == "suite is read-only"
    assert next(lines) == "lo"
    assert next(lines) == "argument: it's $HOME"
    assert next(lines).split()[:4] == ["-rwsr-xr-x", "1", "0", "7"]
    assert not (directory / "new").exists()
    assert scratch_left(farm.repository) == []


def test_a_suite_runs_once_systemd_has_started_the_build(farm: QaFarm) -> None:
    define(farm, ["/bin/sh", "-c", "cat /proc/1/comm /run/up; exit 125"])
    make_commit(farm.repository, systemd_tree(), branch="builds")
    verdict, log = judged(farm)
    assert verdict.finding.reason == "exit status 125", log
    assert "systemd\nup\n" in log


def test_a_kernel_that_panics_fails_its_build(farm: QaFarm) -> None:
    """The log has the panic, and before it, in order, what the build's own shell had written."""
    define(farm, ["sh", "-c", PANIC])
    build(farm)
    verdict, log = judged(farm)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.finding.reason == "it ended before the suite did: see the log"
    assert log.splitlines()[0].endswith(" -> /bin/busybox"), "the build's, not the machine's own"
    said = re.findall(r"(suite|kernel) (\d+)$", log, re.MULTILINE)
    assert said == [(who, str(line)) for line in range(300) for who in ("suite", "kernel")]
    assert "Kernel panic - not syncing" in log
    assert log.index("suite 299") < log.index("Trigger a crash") < log.index("Kernel panic")


def test_a_machine_is_gone_at_the_limit(farm: QaFarm) -> None:
    """It is still booting."""
    define(farm, ["/bin/true"], "1s")
    build(farm)
    verdict, _ = judged(farm)
    assert verdict.finding.reason == "killed: it took longer than 1 s"


def test_a_killed_runner_takes_its_machine_along(farm: QaFarm) -> None:
    """And the next one removes the disks that it left."""
    define(farm, ["/bin/true"])
    build(farm)
    runner = subprocess.Popen(
        [
            hacktree_program(), "--repo", str(farm.repository.path), "qa", "run", "fastqa",
            "--sandbox", "vm",
        ],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not (machines := machines_of(farm)):
        assert runner.poll() is None
        os.sched_yield()
    ending = os.pidfd_open(machines[0])
    runner.kill()
    runner.wait()
    try:
        assert select.select([ending], [], [], 60)[0]
    finally:
        os.close(ending)
    assert len(scratch_left(farm.repository)) == 1
    remove_dead(farm.repository.state / "qa/scratch")
    assert scratch_left(farm.repository) == []


def test_a_processor_is_used_if_a_kernel_starts_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one that QEMU refuses, nor one that hangs (here: stopped before its first step)."""
    (image,) = (data for path, data in bootable_tree().items() if "vmlinuz" in str(path))
    assert isinstance(image, bytes)
    (tmp_path / "kernel").write_bytes(image)
    assert kernel_speaks(tmp_path, EMULATION)
    assert not kernel_speaks(tmp_path, ("-accel", "tcg", "-cpu", "no-such-model"))
    monkeypatch.setattr("hacktree.server.promotion.machine.qemu.PROBE_SECONDS", 1)
    assert not kernel_speaks(tmp_path, (*EMULATION, "-S"))


def test_a_build_without_a_kernel_fails(farm: QaFarm) -> None:
    define(farm, ["/bin/true"])
    build(farm, "vmlinuz")
    verdict, _ = judged(farm)
    assert verdict.outcome is Outcome.FAIL
    assert "no kernel" in verdict.finding.reason


def test_a_kernel_that_can_not_run_in_a_machine_says_nothing(farm: QaFarm) -> None:
    define(farm, ["/bin/true"])
    build(farm, "virtio_blk", "modules.builtin")
    verdict, _ = judged(farm)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "virtio_blk" in verdict.finding.reason


@pytest.mark.parametrize("missing", [QEMU, "mkfs.ext4", "debugfs"])
def test_a_runner_that_lacks_a_program_claims_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    for program in {QEMU, "mkfs.ext4", "debugfs"} - {missing}:
        (tmp_path / program).symlink_to("/bin/true")
    monkeypatch.setattr("hacktree.server.promotion.sandbox.SEARCH_PATH", str(tmp_path))
    with pytest.raises(SandboxMissingError, match=missing):
        Confinement(Sandbox.VM).require()


def test_a_runner_without_a_static_busybox_claims_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in ("/nowhere", "/bin/ls", "/bin"):
        monkeypatch.setattr("hacktree.server.promotion.machine.initramfs.BUSYBOX", Path(path))
        with pytest.raises(SandboxMissingError, match="linked statically") as told:
            Confinement(Sandbox.VM).require()
        assert "busybox-static" in told.value.hint


@pytest.mark.parametrize(
    "options",
    [
        ["--sandbox", "vm", "--memory", "1MiB"],
        ["--sandbox", "vm", "--memory", "much"],
        ["--sandbox", "vm", "--processors", "0"],
        ["--processors", "2"],
    ],
)
def test_sizes_that_no_machine_has_are_refused(farm: QaFarm, options: list[str]) -> None:
    done = subprocess.run(
        [hacktree_program(), "--repo", str(farm.repository.path), "qa", "run", "fastqa", *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
