"""The initramfs that finds a build's disks: this machine's busybox, and the build's modules.

Nothing of the build runs before its kernel and its own files do. Pure, but for reading busybox.
"""

import struct
from pathlib import Path
from typing import Final

from hacktree.common.errors import UserError
from hacktree.server.promotion.machine.kernel import Kernel

BUSYBOX: Final = Path("/bin/busybox")

ROOT_DISK: Final = "hacktree-root"
SUITE_DISK: Final = "hacktree-suite"
"""Serial numbers: the order in which disks are found is the kernel's affair."""

SUITE_MOUNT: Final = "/run/hacktree"
START: Final = f"{SUITE_MOUNT}/start"

_INIT: Final = f"""\
#!/bin/busybox sh
b=/bin/busybox
stop() {{
    echo "hacktree: the virtual machine stops: $1" >/dev/console
    $b poweroff -f
}}
$b mount -t devtmpfs devtmpfs /dev
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
for module in /modules/*.ko; do
    [ -e "$module" ] && $b insmod "$module"
done
disk() {{
    tries=0
    while [ $tries -lt 100 ]; do
        for d in /sys/block/vd*; do
            [ "$($b cat "$d/serial" 2>/dev/null)" = "$1" ] && echo "/dev/${{d##*/}}" && return
        done
        tries=$((tries + 1))
        $b sleep 0.1
    done
}}
$b mount -t ext4 "$(disk {ROOT_DISK})" /root || stop "its kernel can't mount its root"
for d in dev proc sys run; do
    $b mkdir -p "/root/$d"
done
$b mount -t tmpfs -o mode=755 tmpfs /root/run
$b mkdir /root{SUITE_MOUNT}
$b mount -t ext4 "$(disk {SUITE_DISK})" /root{SUITE_MOUNT} || stop "no disk of the suite"
for d in dev proc sys; do
    $b mount --move "/$d" "/root/$d"
done
exec $b switch_root /root {SUITE_MOUNT}/busybox sh {START}
"""

_ELF_MAGIC: Final = b"\x7fELF\x02"
_X86_64: Final = b"\x3e\0"
_PROGRAM_INTERPRETER: Final = 3
_DIRECTORIES: Final = ("bin", "dev", "modules", "proc", "root", "sys")


class BusyboxMissingError(UserError):
    """This machine has no busybox that runs everywhere."""


def read_busybox() -> bytes:
    """The program; raises `BusyboxMissingError` unless it needs no library."""
    try:
        data = BUSYBOX.read_bytes()
    except OSError:
        data = b""
    if not _is_static(data):
        raise BusyboxMissingError(
            f"--sandbox vm needs {BUSYBOX} for x86-64, linked statically, which is not here",
            hint="Install the package busybox-static (Fedora: busybox).",
        )
    return data


def _is_static(data: bytes) -> bool:
    if not data.startswith(_ELF_MAGIC) or data[0x12:0x14] != _X86_64:
        return False
    # The ELF header: where the program headers are, the size of one, their number.
    (start,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    kinds = (struct.unpack_from("<I", data, start + size * number)[0] for number in range(count))
    return _PROGRAM_INTERPRETER not in kinds


def make_initramfs(kernel: Kernel, busybox: bytes) -> bytes:
    """A cpio archive ("newc", Linux Documentation/driver-api/early-userspace/buffer-format)."""
    archive = [_entry(name, 0o40755, b"") for name in _DIRECTORIES]
    archive.append(_entry("bin/busybox", 0o100755, busybox))
    archive.append(_entry("init", 0o100755, _INIT.encode()))
    for number, module in enumerate(kernel.modules):
        archive.append(_entry(f"modules/{number:03}.ko", 0o100644, module))
    archive.append(_entry("TRAILER!!!", 0, b""))
    return b"".join(archive)


def _entry(name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
