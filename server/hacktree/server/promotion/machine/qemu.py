"""The virtual machine: QEMU with the build's kernel, two disks, and two ports to the runner.

What runs in it is hostile. It has no network, no file system of this machine and no more disk than
its images; its log goes where that of any suite goes, and its answer is a few bytes of a pipe.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository
from hacktree.server.promotion.command import SEARCH_PATH, Job
from hacktree.server.promotion.machine.guest import (
    ANSWER_PORT,
    LOG_PORT,
    fill_suite_disk,
    find_program,
)
from hacktree.server.promotion.machine.image import make_image, restore_attributes
from hacktree.server.promotion.machine.initramfs import (
    ROOT_DISK,
    SUITE_DISK,
    make_initramfs,
    read_busybox,
)
from hacktree.server.promotion.machine.kernel import find_kernel
from hacktree.server.promotion.scratch import remove_tree
from hacktree.server.promotion.verdicts import Finding, Outcome, judge_exit

QEMU: Final = "qemu-system-x86_64"
ROOT_SPACE: Final = 2 << 30
WORK_SPACE: Final = 1 << 30
"""Bytes that are free in the machine, on the build's disk and on the suite's."""

MAX_PROCESSORS: Final = 64

_KERNEL_LINE: Final = (
    # A panic ends the machine, as does a reboot.
    "console=ttyS0 loglevel=4 panic=-1 rdinit=/init "
    # The build's /etc/fstab names disks that are not here; nobody answers questions.
    "fstab=no systemd.firstboot=no systemd.show_status=error systemd.log_color=0"
)
_ANSWER: Final = re.compile(rb"([0-9]{1,3})\n")
_MAX_ANSWER: Final = 64
HARDWARE: Final = ("-accel", "kvm", "-cpu", "host")
EMULATION: Final = ("-accel", "tcg", "-cpu", "max")

PROBE_SECONDS: Final = 20
_FIRST_LINE: Final = b"Linux version "
_MAX_SAID: Final = 1 << 16


class SizeInvalidError(UserError):
    """No virtual machine can be of this size."""


class Size(msgspec.Struct, frozen=True):
    """What a machine has at most, `memory` in bytes. Raises `SizeInvalidError`."""

    memory: int = 2 << 30
    processors: int = 2

    def __post_init__(self) -> None:
        if not 128 << 20 <= self.memory <= 1 << 40:
            raise SizeInvalidError("a virtual machine has 128 MiB to 1 TiB of memory")
        if not 1 <= self.processors <= MAX_PROCESSORS:
            raise SizeInvalidError(f"a virtual machine has 1 to {MAX_PROCESSORS} processors")


DEFAULT_SIZE: Final = Size()


@contextmanager
def booted_build(
    job: Job,
    size: Size,
    repository: Repository,
    build: ObjectId,
    root: Path,
    hidden: tuple[Path, ...],
) -> Iterator[Job]:
    """A job that boots `build`, checked out in `root`, and does `job` in it.

    `root` is gone then: its content is on the machine's disk, beside it. Raises `UnfitBuildError`,
    and what `find_program` and `make_image` do.
    """
    program = find_program(job.command, hidden)
    busybox = read_busybox()
    kernel = find_kernel(root)
    place = root.parent / "machine"
    place.mkdir(0o700)
    (place / "kernel").write_bytes(kernel.image)
    processor = choose_processor(place)
    (place / "initramfs").write_bytes(make_initramfs(kernel, busybox))
    make_image(root, place / "root.img", ROOT_SPACE)
    restore_attributes(repository, repository.load_commit(build), root, place / "root.img")
    remove_tree(root)
    suite = place / "suite"
    suite.mkdir(0o755)
    fill_suite_disk(suite, program, job.environment, busybox)
    make_image(suite, place / "suite.img", WORK_SPACE)
    remove_tree(suite)
    with open_answer(place / "answer") as answer:
        yield replace(
            job,
            command=_command(size, processor),
            environment={"PATH": SEARCH_PATH, "TMPDIR": str(place)},
            directory=place,
            judge=lambda status: judge_machine(status, answer()),
        )


@contextmanager
def open_answer(path: Path) -> Iterator[Callable[[], bytes]]:
    """A pipe of a name. What is written beyond its 64 KiB stops the machine until its limit."""
    os.mkfifo(path, 0o600)
    # For writing too, so that QEMU need not wait for a reader nor a reader for QEMU.
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def read() -> bytes:
        try:
            return os.read(descriptor, _MAX_ANSWER)
        except BlockingIOError:
            return b""

    try:
        yield read
    finally:
        os.close(descriptor)


def judge_machine(status: int, answer: bytes) -> Finding:
    """What the end of a machine says: QEMU's own exit status, and what came from inside."""
    if status:
        how = f"exit status {status}" if status > 0 else f"signal {-status}"
        return Finding(Outcome.INCONCLUSIVE, f"QEMU itself failed: {how}")
    match = _ANSWER.fullmatch(answer)
    if match is None:
        what = "the suite's exit status came garbled" if answer else "it ended before the suite did"
        return Finding(Outcome.FAIL, f"{what}: see the log")
    return judge_exit(int(match[1]))


def choose_processor(place: Path) -> Sequence[str]:
    """KVM if the kernel in `place` speaks there, else emulation.

    /dev/kvm may be there and of no use: then QEMU ends at once, or the machine hangs in silence. A
    kernel that is silent in both is judged under emulation.
    """
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK)
    return HARDWARE if usable and kernel_speaks(place, HARDWARE) else EMULATION


def kernel_speaks(place: Path, processor: Sequence[str]) -> bool:
    """Whether a machine with this processor comes as far as the kernel's first line."""
    command = [
        # It also ends if this process is killed.
        "timeout", "--signal=KILL", str(PROBE_SECONDS), *_base(), *processor,
        "-m", "512M", "-kernel", "kernel", "-append", "console=ttyS0 panic=-1",
        "-serial", "file:/dev/stdout",
    ]  # fmt: skip
    said = b""
    with subprocess.Popen(
        command,
        cwd=place,
        env={"PATH": SEARCH_PATH, "TMPDIR": str(place)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None  # noqa: S101
        while _FIRST_LINE not in said and len(said) < _MAX_SAID:
            piece = os.read(process.stdout.fileno(), 4096)
            if not piece:
                break
            said += piece
        process.terminate()
    return _FIRST_LINE in said


def _base() -> list[str]:
    return [
        shutil.which(QEMU, path=SEARCH_PATH) or QEMU,
        "-no-user-config", "-nodefaults", "-display", "none", "-machine", "q35",
        "-nic", "none", "-no-reboot",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]  # fmt: skip


def _command(size: Size, processor: Sequence[str]) -> list[str]:
    """Started in the directory that has everything: no path has to be written for QEMU."""
    return [
        *_base(), *processor,
        "-m", f"{size.memory // (1 << 20)}M", "-smp", str(size.processors),
        "-kernel", "kernel", "-initrd", "initramfs", "-append", _KERNEL_LINE,
        *_disk("root", ROOT_DISK), *_disk("suite", SUITE_DISK),
        # Into the pipe that is the log: the console shows why a kernel panicked.
        "-chardev", "file,id=console,path=/dev/stdout", "-serial", "chardev:console",
        # What was written before a panic is in the log, and before it: a write is handed over by
        # the processor that writes, not by a thread of QEMU's that a reset may overtake.
        "-device", "virtio-serial-pci,ioeventfd=off",
        *_port("log", LOG_PORT, "/dev/stdout"), *_port("answer", ANSWER_PORT, "answer"),
    ]  # fmt: skip


def _disk(name: str, serial: str) -> list[str]:
    return [
        "-drive", f"file={name}.img,format=raw,if=none,id={name},cache=unsafe",
        "-device", f"virtio-blk-pci,drive={name},serial={serial}",
    ]  # fmt: skip


def _port(name: str, port: str, path: str) -> list[str]:
    return [
        "-chardev", f"file,id={name},path={path}",
        "-device", f"virtserialport,chardev={name},name={port}",
    ]  # fmt: skip
