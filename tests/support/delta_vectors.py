"""Frozen deltas: written by `python -m support.delta_vectors` (from tests/), decoded for ever.

Each file holds a base, a frame of one entry and the hash of what it decodes to; binaries are zstd
in base64. What encodes may change; what decodes a frame that was published may not.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from hacktree.common.delta.btf import NumberMap, TypeMap, rewrite
from hacktree.common.delta.codec import encode_delta
from hacktree.common.delta.elf import parse_elf
from hacktree.common.delta.elfdelta import encode_elf
from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind
from hacktree.common.delta.frame import FrameReader, encode_frame
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.zstandard import compress, decompress_bounded

VECTORS = Path(__file__).resolve().parent.parent / "vectors" / "delta"
_LARGEST = 1 << 22


def check_vector(path: Path) -> None:
    """Decode one vector; raises AssertionError if it gives other bytes than it was made for."""
    vector = json.loads(path.read_text())
    shared = Shared.decode(bytes.fromhex(vector["shared"]))
    kind = EntryKind(vector["kind"])
    reader = FrameReader(_unpack(vector["frame"]), [kind], [vector["size"]], b"", shared)
    output = bytearray(vector["size"])
    reader.decode(0, _unpack(vector["base"]), memoryview(output))
    assert hashlib.sha256(output).hexdigest() == vector["sha256"], path.name


def main() -> None:
    """Check all vectors; with `--write` (and a compiler) make them anew."""
    if "--write" in sys.argv:
        _write_all()
    for path in sorted(VECTORS.glob("*.json")):
        check_vector(path)
        sys.stdout.write(f"{path.name}\n")


def _write_all() -> None:
    from support.aarch64_elves import program
    from support.elves import VARIANTS, build

    VECTORS.mkdir(exist_ok=True)
    text = b"".join(b"line %d of a file\n" % number for number in range(500))
    _write("plain", text, text.replace(b"line 77", b"line seventy-seven"), Shared(), None)
    with tempfile.TemporaryDirectory() as directory:
        for variant in VARIANTS:
            old, new = build(variant, Path(directory))
            pair = [parse_elf(np.frombuffer(data, np.uint8)) for data in (old, new)]
            _write(
                f"elf-{variant.replace(' ', '-')}", old, new, Shared(), encode_elf(pair[0], pair[1])
            )

    old, new = program(0), program(1)
    pair = [parse_elf(np.frombuffer(data, np.uint8)) for data in (old, new)]
    _write("elf-aarch64", old, new, Shared(), encode_elf(pair[0], pair[1]))
    _write_module()


def _write_module() -> None:
    """An object file with type information whose numbers a pack-wide map moves."""
    numbers = NumberMap(np.array([2, 9], np.int64), np.array([40_000, 40_011], np.int64))
    shared = Shared(TypeMap(numbers, numbers))
    source = "struct a { int x; struct a *next; char name[9]; }; enum e { E1, E2 };\n"
    source += "int f(struct a *p, enum e e) { return p ? p->x + e : 0; }\n"
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory, "module.o")
        command = ["gcc", "-O2", "-gbtf", "-c", "-x", "c", "-", "-o", str(made)]
        subprocess.run(command, input=source.encode(), check=True)
        old = made.read_bytes()
    new = np.frombuffer(old, np.uint8).copy()
    section = parse_elf(new).section(b".BTF")
    assert section is not None
    rewrite([new[section.offset : section.end]], shared.types)
    changed = new.tobytes().replace(b"GCC: (", b"gcc; (")
    entry = encode_delta(old, changed, shared)
    assert StreamKind.PARAMETERS in entry.parts
    _write("module-types", old, changed, shared, entry)


def _write(name: str, old: bytes, new: bytes, shared: Shared, entry: EncodedEntry | None) -> None:
    chosen = encode_delta(old, new, shared) if entry is None else entry
    vector = {
        "kind": int(chosen.kind),
        "size": len(new),
        "sha256": hashlib.sha256(new).hexdigest(),
        "shared": shared.encode().hex(),
        "frame": _pack(encode_frame([chosen])),
        "base": _pack(old),
    }
    (VECTORS / f"{name}.json").write_text(json.dumps(vector, indent=1) + "\n")


def _pack(data: bytes) -> str:
    return base64.b64encode(compress(data, 19)).decode()


def _unpack(text: str) -> bytes:
    return decompress_bounded(base64.b64decode(text), _LARGEST)


if __name__ == "__main__":
    main()
