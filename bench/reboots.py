"""An unattended search over real reboots: systemd, hacktree and its sysroot in a virtual machine.

The machine's / is the sysroot: systemd, busybox, this Python with hacktree and what it needs, and a
farm of builds with a culprit. A unit begins a search with `bisect run --unattended`, and then:

1. the power goes while the second build is tested: QEMU is killed;
2. the test of the third build tells systemd to reboot, and waits for its end;
3. the search ends, and its unit is gone.

Every boot after the first goes on by the unit that hacktree wrote. Says what was tested in which
boot, and exits with 1 if another build was found, or one was tested more often than it has to be.
Needs QEMU, mkfs.ext4, debugfs, busybox-static, systemd and a kernel (`make system`); takes half a
minute with KVM and about five minutes without.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from hacktree.server.promotion.machine.image import make_image
from hacktree.server.promotion.machine.initramfs import (
    ROOT_DISK,
    SUITE_DISK,
    make_initramfs,
    read_busybox,
)
from hacktree.server.promotion.machine.kernel import find_kernel
from hacktree.server.promotion.machine.qemu import QEMU, choose_processor

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests"))

from support.bisectfarm import make_farm  # noqa: E402
from support.bootable import kernel_module, systemd_tree  # noqa: E402
from support.trees import File, Symlink  # noqa: E402

BUILDS, CULPRIT = 12, 8
SECONDS = 600
"""For one boot, at most."""

KERNEL_LINE = (
    "console=ttyS0 loglevel=4 panic=-1 rdinit=/init fstab=no systemd.firstboot=no "
    "systemd.show_status=no systemd.log_color=0 systemd.log_target=console"
)

FIRST = """\
#!/bin/sh
set -e
export PATH=/bin HOME=/root
hacktree remote add farm file:///farm --unsigned
hacktree pull fastqa
hacktree bisect start --good 47.1 --bad current
exec hacktree bisect run --unattended --host -- /bin/sh /test.sh
"""

TEST = """\
PATH=/bin
number=$(grep VERSION $HACKTREE_ROOT/usr/lib/os-release)
echo "TESTING $number"
echo x >>/tested
sync
case $(grep -c x /tested) in
2) echo "CUT THE POWER"; sleep 1000 ;;
4) trap 'echo "ENDED BY A SIGNAL"; exit 1' TERM; systemctl reboot; sleep 1000 & wait ;;
esac
grep -q fine $HACKTREE_ROOT/usr/share/state
"""
"""The fourth test is the third build: the second one is tested twice. What a shutdown ends must not
be taken for bad, even if the test says so."""

UNITS = {
    "default.target": "[Unit]\nRequires=multi-user.target\nAfter=multi-user.target\n",
    "first.service": (
        "[Unit]\nConditionPathExists=!/.ht/state/bisect/session.json\nConditionPathExists=!/tested\n"
        "[Service]\nType=exec\nExecStart=/bin/sh /first.sh\n"
    ),
}


def fill(place: Path) -> None:
    """What the machine's disk holds."""
    for where, spec in systemd_tree().items():
        path = place / os.fsdecode(where)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(spec, Symlink):
            path.symlink_to(os.fsdecode(spec.target))
        elif isinstance(spec, File):
            path.write_bytes(spec.data)
            path.chmod(spec.mode)
        elif isinstance(spec, bytes):
            path.write_bytes(spec)
    for applet in ("sync", "umount"):
        (place / "bin" / applet).symlink_to("busybox")
    units = place / "usr/lib/systemd/system"
    for unit in Path("/usr/lib/systemd/system").glob("*.*"):
        if unit.is_file() and not (units / unit.name).exists():
            shutil.copy(unit, units / unit.name)
    for name, text in UNITS.items():
        (units / name).write_text(text)
    wants = units / "multi-user.target.wants"
    wants.mkdir()
    (wants / "first.service").symlink_to("../first.service")
    (place / "etc/systemd").mkdir(parents=True, exist_ok=True)
    (place / "etc/systemd/system.conf").write_text(
        "[Manager]\nDefaultStandardOutput=tty\nDefaultStandardError=tty\n"
        "DefaultEnvironment=PYTHONUNBUFFERED=1\nDefaultTimeoutStopSec=20s\n"
    )
    # At the very first start systemd enables every unit by itself.
    (place / "etc/machine-id").write_text("5e" * 16 + "\n")
    (place / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (place / "etc/group").write_text("root:x:0:\n")
    for name in ("root", "tmp", "var/tmp", "run", "proc", "sys", "dev"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "first.sh").write_text(FIRST)
    (place / "test.sh").write_text(TEST)
    copy_python(place)
    # Where Debian's systemd looks for it; /lib is no link here.
    programs = ["/lib/systemd/systemd-shutdown", "/usr/bin/systemctl"]
    for program in (*programs, *libraries(programs), *libraries([sys.executable])):
        copy(Path(program), place)
    (place / "bin/systemctl").symlink_to("/usr/bin/systemctl")
    (place / "bin/hacktree").write_text(
        f"#!{sys.executable}\nimport sys\nfrom hacktree.common.cli.main import main\n"
        "sys.exit(main())\n"
    )
    (place / "bin/hacktree").chmod(0o755)


def copy(path: Path, place: Path) -> None:
    """A file, to the same place."""
    target = place / str(path).lstrip("/")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def copy_python(place: Path) -> None:
    """The interpreter with its library, and hacktree with what it requires."""
    real = Path(sys.executable).resolve()
    copy(real, place)
    own = place / sys.executable.lstrip("/")
    own.parent.mkdir(parents=True, exist_ok=True)
    if not own.exists():
        own.symlink_to(real)
    copy(Path(sys.prefix) / "pyvenv.cfg", place)
    library = Path(os.__file__).parent
    dropped = shutil.ignore_patterns(
        "site-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "*.a",
        "config-*", "turtledemo",
    )  # fmt: skip
    shutil.copytree(library, place / str(library).lstrip("/"), ignore=dropped, dirs_exist_ok=True)
    for each in required("hacktree", set()):
        for file in each.files or ():
            path = Path(str(file.locate()))
            if path.is_file() and path.suffix != ".pth":
                copy(path.absolute(), place)
    for part in ("common", "client", "server"):
        shutil.copytree(PROJECT / part, place / str(PROJECT / part).lstrip("/"))
    site = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    paths = "".join(f"{PROJECT / part}\n" for part in ("common", "client", "server"))
    (place / str(site).lstrip("/") / "hacktree.pth").write_text(paths)
    native = [str(path) for path in place.rglob("*.so*") if path.is_file()]
    for loaded in libraries(native):
        if not loaded.startswith(str(place)):
            copy(Path(loaded), place)


def required(name: str, seen: set[str]) -> Iterator[Distribution]:
    """A distribution and all that it requires here."""
    found = distribution(name)
    seen.add(name.lower())
    yield found
    for text in found.requires or ():
        need = Requirement(text)
        wanted = need.marker is None or need.marker.evaluate({"extra": ""})
        if wanted and need.name.lower() not in seen:
            yield from required(need.name, seen)


def libraries(programs: list[str]) -> set[str]:
    """The shared libraries that these load, and the loader."""
    done = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    return set(re.findall(r"(/\S+) \(0x", done.stdout))


def start_machine(work: Path, processor: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Boot it; its console is the process's output."""
    disk = ["-drive", "file={0}.img,format=raw,if=none,id={0}", "-device"]
    disk.append("virtio-blk-pci,drive={0},serial={1}")
    command = [
        shutil.which(QEMU) or QEMU, "-no-user-config", "-nodefaults", "-display", "none",
        "-machine", "q35", "-nic", "none", *processor, "-m", "1024M", "-smp", "2",
        "-kernel", "kernel", "-initrd", "initramfs", "-append", KERNEL_LINE,
        *(word.format("root", ROOT_DISK) for word in disk),
        *(word.format("suite", SUITE_DISK) for word in disk),
        "-serial", "stdio",
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
    )


def watch(machine: subprocess.Popen[bytes], until: str) -> list[str]:
    """The console's lines until one has this text; then the machine has lost its power."""
    assert machine.stdout is not None
    lines, end = [], time.monotonic() + SECONDS
    for data in machine.stdout:
        line = data.decode(errors="replace").strip()
        print(f"  | {line}", flush=True)
        lines.append(line)
        if until in line or time.monotonic() > end:
            break
    machine.kill()
    machine.wait()
    if not any(until in line for line in lines):
        sys.exit(f"the machine ended, or took too long, before it said: {until}")
    return lines


def tested(lines: list[str]) -> list[int]:
    """The builds whose test was begun."""
    return [int(line.rpartition("=")[2]) for line in lines if line.startswith("TESTING ")]


def main() -> int:
    """Do it; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--emulate", action="store_true", help="without KVM")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hacktree-reboots-") as name:
        work = Path(name)
        place = work / "root"
        place.mkdir()
        fill(place)
        make_farm(place / "farm", BUILDS, CULPRIT)
        kernel = find_kernel(place)
        (work / "kernel").write_bytes(kernel.image)
        (work / "initramfs").write_bytes(make_initramfs(kernel, read_busybox()))
        make_image(place, work / "root.img", 1 << 30)
        # After a power cut the journal is what makes it whole.
        subprocess.run(["tune2fs", "-O", "has_journal", work / "root.img"], check=True)
        suite = work / "suite"
        suite.mkdir()
        shutil.copy("/bin/busybox", suite / "busybox")
        (suite / "overlay.ko").write_bytes(kernel_module("overlay"))
        start = "/bin/busybox insmod /run/hacktree/overlay.ko\nexec /usr/lib/systemd/systemd\n"
        (suite / "start").write_text(start)
        make_image(suite, work / "suite.img", 1 << 20)
        shutil.rmtree(place)
        processor = ("-accel", "tcg", "-cpu", "max") if args.emulate else choose_processor(work)
        began = time.monotonic()
        before = watch(start_machine(work, tuple(processor)), "CUT THE POWER")
        after = watch(start_machine(work, tuple(processor)), "Last good build:")
        print(f"{time.monotonic() - began:.0f} s")
        # Its journal first: debugfs sees what the file system was before.
        subprocess.run(["e2fsck", "-p", "root.img"], cwd=work, check=False)
        unit = subprocess.run(
            ["debugfs", "-R", "stat /etc/systemd/system/hacktree-bisect.service", "root.img"],
            cwd=work, capture_output=True, text=True, check=True,
        )  # fmt: skip
    builds = [tested(before), tested(after)]
    print(f"tested before the power cut: {builds[0]}, after it: {builds[1]}")
    found = next(line for line in after if line.startswith("First bad build: "))
    print(found)
    good = f"First bad build: fastqa {CULPRIT} " in found
    good &= builds[0][-1] == builds[1][0] and builds[1][1] == builds[1][2]
    good &= len({*builds[0], *builds[1]}) == len(builds[0]) + len(builds[1]) - 2
    gone = "File not found" in unit.stderr
    print("as it has to be" if good and gone else f"WRONG: {unit.stderr}")
    return 0 if good and gone else 1


if __name__ == "__main__":
    sys.exit(main())
