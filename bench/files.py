"""Single files: `hacktree delta explain` against bsdiff with its three streams through xz -9e.

The peer's figures are kept in --dir/peers.json under the contents' hashes: they take minutes.
"""

import argparse
import hashlib
import json
import lzma
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bsdiff4.core
from bench.harness import HACKTREE, Table
from bench.peers import Kept
from bench.trees import default_directory

LIBRARIES = "usr/lib/x86_64-linux-gnu"
FILES = {
    "usr/lib/libreoffice/program/libmergedlo.so": "≤ 0.15",
    f"{LIBRARIES}/libc.so.6": "≤ 0.35",
    f"{LIBRARIES}/libaom.so.3.*": "≤ 0.20",
    f"{LIBRARIES}/libcrypto.so.3": "≤ 0.55",
    f"{LIBRARIES}/libssl.so.3": "",
    f"{LIBRARIES}/libglib-2.0.so.0.*": "",
    f"{LIBRARIES}/libedataserver-1.2.so.*": "",
    f"{LIBRARIES}/libcamel-1.2.so.*": "",
    f"{LIBRARIES}/libm.so.6": "",
    f"{LIBRARIES}/libxml2.so.2.*": "",
    f"{LIBRARIES}/libnss3.so": "",
    f"{LIBRARIES}/libpoppler.so.126.*": "",
    f"{LIBRARIES}/gstreamer-1.0/libgstisomp4.so": "",
    f"{LIBRARIES}/libjavascriptcoregtk-4.1.so.*": "",
    f"{LIBRARIES}/libwebkit2gtk-4.1.so.*": "",
    f"{LIBRARIES}/systemd/libsystemd-shared-252.so": "",
    "usr/bin/python3.11": "",
    "usr/bin/perl": "",
    "usr/bin/ssh": "",
    "usr/bin/ssh-add": "",
    "usr/bin/ssh-keygen": "",
    "usr/bin/udevadm": "",
    "usr/sbin/sshd": "",
}
"""Globs of ELF files that a step replaces, and the issue's targets."""

LARGE_FILES = {"usr/lib/firefox-esr/libxul.so": ""}
"""Only with --large: bsdiff takes several minutes and GB."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One file before and after a step."""

    step: str
    old: Path
    new: Path
    target: str


def pairs(trees: Path, files: dict[str, str]) -> Iterator[Pair]:
    """Every step that changes the content of a file at the same path."""
    for glob, target in files.items():
        for old, new in ((0, 1), (1, 2)):
            for before in sorted((trees / str(old)).glob(glob)):
                after = trees / str(new) / before.relative_to(trees / str(old))
                if before.is_symlink() or not after.is_file():
                    continue
                if before.read_bytes() != after.read_bytes():
                    yield Pair(f"{old}→{new}", before, after, target)


def bsdiff_xz(old: bytes, new: bytes) -> int:
    """Bytes of bsdiff's control, difference and extra streams, each as xz -9e without container."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    return sum(
        len(lzma.compress(stream, lzma.FORMAT_RAW, filters=filters))
        for stream in bsdiff4.core.diff(old, new)
    )


def peer_bytes(kept: Kept, pair: Pair) -> int:
    """The peer's bytes, known or computed now."""
    old, new = pair.old.read_bytes(), pair.new.read_bytes()
    hashes = f"{hashlib.sha256(old).hexdigest()} {hashlib.sha256(new).hexdigest()}"
    figures = kept.get(
        f"bsdiff+xz {pair.step} {pair.new.name} {hashes}", lambda: {"bytes": bsdiff_xz(old, new)}
    )
    return int(figures["bytes"])


def explain(pair: Pair) -> int:
    """Our bytes: of the entry alone in a frame, without a dictionary."""
    command = [HACKTREE, "--json", "delta", "explain", str(pair.old), str(pair.new)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return int(json.loads(done.stdout)["total"])


def compare_files(trees: Path, files: dict[str, str], table: Table) -> None:
    """A row for each pair."""
    kept = Kept(trees / "peers.json")
    for pair in pairs(trees, files):
        peer, ours = peer_bytes(kept, pair), explain(pair)
        what = f"{pair.new.name} {pair.step} ({pair.new.stat().st_size / 1e6:.1f} MB), bytes"
        table.add(what, f"{ours:,}", f"bsdiff + xz: {peer:,}", ours / peer, pair.target)


def main() -> int:
    """Compare, or only compute and keep the peer's figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--dir", type=Path, default=default_directory())
    parser.add_argument("--large", action="store_true", help="libxul too")
    parser.add_argument("--peer-only", action="store_true", help="only compute the peer's figures")
    parser.add_argument("globs", nargs="*", help="of these files only, as paths in a tree")
    args = parser.parse_args()
    files = FILES | LARGE_FILES if args.large else FILES
    if args.globs:
        files = {glob: files.get(glob, "") for glob in args.globs}
    if args.peer_only:
        kept = Kept(args.dir / "peers.json")
        for pair in pairs(args.dir, files):
            print(f"{peer_bytes(kept, pair):>12,} {pair.step} {pair.new.name}", flush=True)
        return 0
    table = Table()
    compare_files(args.dir, files, table)
    (args.dir / "compare").mkdir(exist_ok=True)
    table.write(args.dir / "compare/files.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
