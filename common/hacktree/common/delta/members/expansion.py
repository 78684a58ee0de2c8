"""From a file to its expanded form and back: the decoder's half of compressed members."""

from hacktree.common.delta.members.engines import (
    compress,
    compression_cost,
    decompress,
    decompression_cost,
)
from hacktree.common.delta.members.layout import Layout, expanded_length, file_length
from hacktree.common.objects.errors import FormatError

Buffer = bytes | bytearray | memoryview


def expand(data: Buffer, layout: Layout, max_length: int) -> bytes:
    """The expanded form of the file `data`; `FormatError` beyond `max_length` or if it differs."""
    if file_length(layout) != len(data):
        raise FormatError(f"a layout of {file_length(layout)} bytes for a file of {len(data)}")
    if expanded_length(layout) > max_length:
        raise FormatError(f"a file expands to {expanded_length(layout)} bytes, over {max_length}")
    view = memoryview(data)
    contents: list[Buffer] = []
    literals: list[Buffer] = []
    position = 0
    for member in layout.members:
        start = position + member.gap
        literals.append(view[position:start])
        position = start + member.compressed
        recipe = layout.recipes[member.recipe]
        content = decompress(recipe.engine, recipe.parameters, view[start:position], member.content)
        if len(content) != member.content:
            raise FormatError(f"a member of {len(content)} bytes instead of {member.content}")
        contents.append(content)
    literals.append(view[position:])
    return b"".join(contents + literals)


def rebuild(expanded: Buffer, layout: Layout, output: memoryview) -> None:
    """Fill `output` with the file whose expanded form is given.

    `output` is writable bytes, exactly as long as the file. Raises `FormatError` when a length
    differs; whether the bytes are right only the object's hash can tell.
    """
    if expanded_length(layout) != len(expanded):
        raise FormatError(
            f"{len(expanded)} bytes for an expanded form of {expanded_length(layout)}"
        )
    if file_length(layout) != len(output):
        raise FormatError(f"a layout of {file_length(layout)} bytes for a file of {len(output)}")
    view = memoryview(expanded)
    content = 0
    literal = sum(member.content for member in layout.members)
    position = 0
    for member in layout.members:
        start = position + member.gap
        output[position:start] = view[literal : literal + member.gap]
        recipe = layout.recipes[member.recipe]
        part = compress(recipe.engine, recipe.parameters, view[content : content + member.content])
        if len(part) != member.compressed:
            raise FormatError(f"a member of {len(part)} bytes instead of {member.compressed}")
        position = start + member.compressed
        output[start:position] = part
        content += member.content
        literal += member.gap
    output[position:] = view[literal:]


def common_layout_cost(layout: Layout) -> int:
    """Microseconds of CPU for `rebuild`, about; see `engines` for where the figures come from."""
    return sum(
        compression_cost(recipe.engine, recipe.parameters, member.content)
        for member in layout.members
        for recipe in (layout.recipes[member.recipe],)
    )


def expansion_cost(layout: Layout) -> int:
    """Microseconds of CPU for `expand`, about."""
    return sum(
        decompression_cost(layout.recipes[member.recipe].engine, member.content)
        for member in layout.members
    )
