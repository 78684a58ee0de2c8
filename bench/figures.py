"""Draws the two pictures of docs/deltas.md: where the bytes of a library and of a pack are.

    python -m bench.figures REPOSITORY PACK OLD-FILE NEW-FILE

The archive REPOSITORY must hold PACK and both its trees. Writes docs/figures/library.svg and
upgrade.svg, and prints the numbers. Exit status: 0 done, 2 usage.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import msgspec

from hacktree.common.delta.contents import compare_trees
from hacktree.common.delta.entry import StreamKind
from hacktree.common.delta.explanation import explain_sections
from hacktree.common.delta.frame import Frame, encode_frame, stream_sizes
from hacktree.common.delta.pack import decode_entries, frame_offsets
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.walk import walk_tree
from hacktree.common.repository.encoding import encode_choices
from hacktree.common.repository.packs import find_pack, pack_path, read_head
from hacktree.common.repository.repository import Repository, open_repository

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"
COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f")
SIGNATURE = 532
"""Bytes of a module that nothing predicts: an RSA-4096 signature and a build-id."""


def draw(path: Path, title: str, parts: dict[str, int]) -> None:
    """One bar, divided; parts in order, in bytes."""
    total = sum(parts.values())
    rows, x = [], 20.0
    for number, (name, size) in enumerate(parts.items()):
        width = 680 * size / total
        colour = COLOURS[number % len(COLOURS)]
        rows.append(f'<rect x="{x:.1f}" y="40" width="{width:.1f}" height="44" fill="{colour}"/>')
        y = 112 + 20 * number
        rows.append(f'<rect x="20" y="{y - 11}" width="12" height="12" fill="{colour}"/>')
        rows.append(f'<text x="40" y="{y}">{name}: {size:,} bytes, {size / total:.0%}</text>')
        x += width
    height = 112 + 20 * len(parts)
    style = "font: 13px sans-serif; fill: #222"
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" width="720">\n'
        f'<rect width="720" height="{height}" fill="#fff"/><g style="{style}">\n'
        f'<text x="20" y="26" style="font-weight: bold">{title}</text>\n'
        + "\n".join(rows)
        + "\n</g></svg>\n"
    )


def library(old: Path, new: Path) -> dict[str, int]:
    """Bytes of one file's entry by stream."""
    before, after = old.read_bytes(), new.read_bytes()
    entry = encode_choices(before, after, Shared())[0].entry
    sizes = stream_sizes(entry)
    for row in explain_sections(entry, len(before), after, sizes)[:6]:
        print(f"  {row.name:<24} about {row.estimate} bytes")
    groups = {
        "copies": ("copy_lengths", "copy_gaps", "copy_seeks"),
        "bytes that differ": ("diff_gaps", "diff_values"),
        "new code and data": ("extra",),
        "references set right": ("reference_gaps", "reference_values"),
        "exceptions to the address map": ("point_gaps", "point_moves"),
    }
    parts = {name: sum(sizes.get(kind, 0) for kind in kinds) for name, kinds in groups.items()}
    parts["framing"] = len(encode_frame([entry])) - sum(parts.values())
    return dict(sorted(parts.items(), key=lambda item: -item[1]))


def upgrade(repository: Repository, digits: str) -> dict[str, int]:
    """Bytes of a pack, without its alternatives, by what they are for."""
    edge = find_pack(repository, digits)
    head = read_head(repository, edge)
    trees = compare_trees(repository.load_tree, edge.old, edge.new)
    entries = decode_entries(head, len(trees.targets), len(trees.bases))
    paths: dict[bytes, bytes] = {}
    for path, entry in walk_tree(repository.load_tree, edge.new):
        if isinstance(entry, FileEntry):
            paths.setdefault(entry.id, path)
    parts: Counter[str] = Counter({"trees, index and maps": edge.head_length})
    offsets, starts = frame_offsets(head, edge.head_length).tolist(), entries.starts.tolist()
    with pack_path(repository, edge.pack).open("rb") as stream:
        for number, info in enumerate(head.frames):
            if offsets[number] >= edge.length:
                break  # Alternatives, for those to whom time is dear.
            stream.seek(offsets[number])
            frame = msgspec.msgpack.decode(stream.read(info.length), type=Frame)
            targets = entries.targets[starts[number] : starts[number + 1]].tolist()
            names = [paths[trees.targets[target]] for target in targets]
            modules = sum(name.endswith(b".ko") for name in names)
            if modules * 2 < len(names):
                kernel = names[0].startswith(b"boot/vmlinuz")
                parts["kernel image" if kernel else "libraries, programs, texts"] += info.length
                continue
            extra = sum(s.length for s in frame.streams if s.kind == StreamKind.EXTRA)
            packed = sum(len(s.data) for s in frame.streams if s.kind == StreamKind.EXTRA)
            signatures = min(SIGNATURE * modules, packed, extra)
            differences = sum(
                len(s.data)
                for s in frame.streams
                if s.kind in (StreamKind.DIFF_GAPS, StreamKind.DIFF_VALUES)
            )
            parts["modules: signatures and build-ids"] += signatures
            parts["modules: type information (BTF) and other differences"] += differences
            parts["modules: new bytes, copies, framing"] += info.length - signatures - differences
    return dict(parts.most_common())


def main() -> int:
    """Draw both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repository", type=Path)
    parser.add_argument("pack")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    FIGURES.mkdir(exist_ok=True)
    parts = library(arguments.old, arguments.new)
    draw(FIGURES / "library.svg", f"{arguments.new.name}: {sum(parts.values()):,} bytes", parts)
    print(parts)
    parts = upgrade(open_repository(arguments.repository), arguments.pack)
    draw(FIGURES / "upgrade.svg", f"One upgrade: {sum(parts.values()):,} bytes", parts)
    print(parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
