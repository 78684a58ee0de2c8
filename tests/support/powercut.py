"""A disk that remembers every write, and what a power cut at any moment may have left of it.

qemu-storage-daemon exports an image as a file through FUSE and logs what is written to it, in the
format of the kernel's dm-log-writes; a loop device on that file carries a real file system. After a
cut, everything before the last flush is on the disk; of the writes since then, any, whole or torn.
"""

import os
import random
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

_SECTOR: Final = 512
_WHOLE: Final = 4096
"""Bytes that today's disks write whole or not at all."""

_ENTRY: Final = struct.Struct("<QQQQ")
"""Sector, sectors, flags, bytes of data that follow in the header's sector."""

_FLUSH, _DISCARD = 1, 4
_SECONDS: Final = 30

MAKE: Final = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
OPTIONS: Final = {
    # The least that POSIX promises: new names may come before the contents.
    "ext4": "data=writeback,noauto_da_alloc",
    "xfs": "nouuid",
}
_BYTES: Final = {"ext4": 128 << 20, "xfs": 300 << 20}


@dataclass(frozen=True, slots=True)
class _Write:
    """Sectors that were written, or a flush (`data` None)."""

    offset: int
    data: bytes | None


@dataclass(slots=True)
class RecordedDisk:
    """A mounted file system on a disk that keeps a log; `place` is where."""

    kind: str
    directory: Path
    place: Path
    marks: list[int] = field(default_factory=list)

    def mark(self) -> None:
        """Remember this moment."""
        self.marks.append((self.directory / "log").stat().st_size)

    def cuts(self, count: int, seed: int) -> Iterator[tuple[int, Path]]:
        """So many power cuts between each mark and the next: the number of the earlier, the image.

        In order of time, drawn with `seed`; an image is good until the next is asked for.
        """
        chance = random.Random(seed)
        log = _read_log(self.directory / "log")
        before, image = self.directory / "before", self.directory / "cut"
        shutil.copyfile(self.directory / "empty", before)
        done = 0
        for number, (begin, end) in enumerate(pairwise(self.marks)):
            span = [n for n, (at, _) in enumerate(log) if begin < at <= end]
            for moment in sorted(chance.sample(span, count)):
                flushes = (n for n in range(moment, done, -1) if log[n][1].data is None)
                flushed = next(flushes, done)
                _apply(before, [write for _, write in log[done:flushed]])
                done = flushed
                subprocess.run(["cp", "--sparse=always", before, image], check=True)
                pending = [write for _, write in log[flushed : moment + 1]]
                _apply(image, _some(pending, chance))
                yield number, image


def _some(pending: list[_Write], chance: random.Random) -> Iterator[_Write]:
    """Each of the writes whole, a part of its sectors, or not at all."""
    share = chance.choice([0.0, 0.3, 0.7, 1.0])
    for write in pending:
        if write.data is None or chance.random() >= share:
            continue
        if chance.random() < 0.2:
            length = chance.randrange(0, len(write.data), _WHOLE)
            yield _Write(write.offset, write.data[:length])
        else:
            yield write


def _apply(image: Path, writes: "list[_Write] | Iterator[_Write]") -> None:
    with image.open("r+b", buffering=0) as file:
        for write in writes:
            if write.data is not None:
                os.pwrite(file.fileno(), write.data, write.offset)


def _read_log(path: Path) -> list[tuple[int, _Write]]:
    """Every entry with the log's length at its end."""
    found = []
    with path.open("rb") as log:
        log.seek(_SECTOR)
        while header := log.read(_SECTOR):
            sector, count, flags, _ = _ENTRY.unpack_from(header)
            if count and flags & _DISCARD:
                continue  # What was discarded may as well still be there.
            data = log.read(count * _SECTOR)
            assert len(data) == count * _SECTOR, "the log is cut off"
            if data:
                found.append((log.tell(), _Write(sector * _SECTOR, data)))
            if flags & _FLUSH:
                found.append((log.tell(), _Write(0, None)))
    return found


@contextmanager
def recorded_disk(kind: str, directory: Path) -> Iterator[RecordedDisk]:
    """A new file system of this kind, mounted; root only. After it, only `cuts` is left."""
    for program in (MAKE[kind][0], "qemu-storage-daemon"):
        assert shutil.which(program), f"{program} is missing (make system)"
    empty, disk, log, export = (directory / name for name in ("empty", "disk", "log", "export"))
    with empty.open("wb") as file:
        file.truncate(_BYTES[kind])
    subprocess.run([*MAKE[kind], empty], check=True)
    shutil.copyfile(empty, disk)
    log.touch()
    export.touch()
    place = directory / "place"
    place.mkdir()
    daemon = subprocess.Popen(
        [
            "qemu-storage-daemon", "--pidfile", directory / "pid",
            "--blockdev", f"driver=file,node-name=disk,filename={disk}",
            "--blockdev", f"driver=file,node-name=log,filename={log}",
            "--blockdev", "driver=blklogwrites,node-name=both,file=disk,log=log",
            "--export", f"type=fuse,id=export,node-name=both,mountpoint={export},writable=on",
            "--chardev", "stdio,id=ready", "--monitor", "chardev=ready",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert daemon.stdout is not None
        assert b"QMP" in daemon.stdout.readline(), "qemu-storage-daemon does not start"
        with _mounted(export, place, OPTIONS[kind]):
            yield RecordedDisk(kind, directory, place)
    finally:
        daemon.terminate()
        daemon.communicate(timeout=_SECONDS)


@contextmanager
def mounted(image: Path, kind: str, place: Path) -> Iterator[Path]:
    """What the next start finds: the file system mounted, so that its journal is replayed."""
    place.mkdir(exist_ok=True)
    with _mounted(image, place, OPTIONS[kind]):
        yield place


@contextmanager
def _mounted(image: Path, place: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-o", f"loop,{options}", image, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)
        _await_detached(image)


def _await_detached(image: Path) -> None:
    """Until nobody writes to the image any more.

    Who made a mount namespace meanwhile, such as another test's replay, has it mounted, too.
    """
    pause, ends = threading.Event(), time.monotonic() + _SECONDS * 4
    command = ["losetup", "--associated", str(image)]
    while subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout:
        assert time.monotonic() < ends, f"{image} stays mounted somewhere"
        pause.wait(0.05)


@contextmanager
def hurrying(place: Path) -> Iterator[None]:
    """Somebody else's syncs, which write names to the journal before their files' contents."""
    stop = threading.Event()

    def write() -> None:
        with (place / "other").open("wb", buffering=0) as file:
            while not stop.wait(0.005):
                file.write(b"x")
                os.fsync(file.fileno())

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
