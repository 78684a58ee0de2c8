"""`hacktree delta explain`."""

import argparse
import time
from pathlib import Path
from typing import Final

from msgspec.structs import asdict

from hacktree.common.cli.output import emit_json, say, show
from hacktree.common.delta.entry import EncodedEntry, EntryKind
from hacktree.common.delta.explanation import explain_sections
from hacktree.common.delta.frame import FrameReader, encode_frame, stream_sizes
from hacktree.common.delta.shared import Shared
from hacktree.common.errors import HacktreeError
from hacktree.common.repository.encoding import encode_choices

_SHOWN_SECTIONS: Final = 12


class DeltaInexactError(HacktreeError):
    """A delta does not give its file back: a bug in the codec, which a pack would not carry."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.add_argument("old", metavar="OLD", help="the file that a client has")
    parser.add_argument("new", metavar="NEW", help="the file that it is to get")
    parser.epilog = """\
The total is that of a frame with this one entry and no dictionary; in a pack the entry shares its
frame with others and is smaller. Of several entries that a pack would offer it is the smallest. The
delta is decoded again and compared.

Examples:
  hacktree delta explain old/libc.so.6 new/libc.so.6
  hacktree delta explain --json old/xfs.ko new/xfs.ko

Exit statuses: 0 done, 1 the delta does not give NEW back, 8 a file can't be read."""


def run(args: argparse.Namespace) -> int:
    """Encode, decode, compare, and print where the bytes are."""
    old, new = Path(args.old).read_bytes(), Path(args.new).read_bytes()
    started = time.monotonic()
    choices = encode_choices(old, new, Shared())
    entry = min(choices, key=lambda choice: choice.estimate).entry
    frame = encode_frame([entry])
    encoded = time.monotonic()
    _check(entry, frame, old, new)
    decoded = time.monotonic()
    sizes = stream_sizes(entry)
    # A member's delta is one of what the file decompresses to: it has no sections.
    is_member = entry.kind is EntryKind.MEMBER
    sections = [] if is_member else explain_sections(entry, len(old), new, sizes)
    document = {
        "kind": entry.kind.name.lower(),
        "total": len(frame),
        "old": len(old),
        "new": len(new),
        "streams": sizes,
        "sections": [asdict(row) for row in sections],
        "decoded-streams": {k.name.lower(): len(v) for k, v in entry.parts.items() if v},
        "cost-us": entry.cost,
        "encode-seconds": round(encoded - started, 3),
        "decode-seconds": round(decoded - encoded, 4),
    }
    if args.json:
        emit_json(document)
        return 0
    show(f"{len(frame)} bytes ({entry.kind.name.lower()}) turn {len(old)} bytes into {len(new)}")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        show(f"  {name:<14}{size:>10}  {size / len(frame):6.1%}")
    if sections:
        show("by section of the new file, about:")
    for row in sections[:_SHOWN_SECTIONS]:
        show(
            f"  {row.name:<22}{row.estimate:>10}  {row.size} bytes: {row.copies} copies, "
            f"{row.differing} bytes differ, {row.new} are new"
        )
    say(args, f"encoded in {encoded - started:.2f} s, decoded in {decoded - encoded:.3f} s")
    return 0


def _check(entry: EncodedEntry, frame: bytes, old: bytes, new: bytes) -> None:
    output = bytearray(len(new))
    reader = FrameReader(frame, [entry.kind], [len(new)], b"", Shared())
    reader.decode(0, old, memoryview(output))
    if output != new:
        raise DeltaInexactError("the delta does not give the new file back: a bug in the codec")
