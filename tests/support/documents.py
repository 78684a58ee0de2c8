"""The commands that docs/operations.md shows."""

import re
from pathlib import Path

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def commands_in(section: str) -> list[str]:
    """The lines of the code blocks under a heading, continued lines joined; not those below it."""
    text = OPERATIONS.read_text()
    found = re.search(rf"^#+ {re.escape(section)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{OPERATIONS.name} has no section {section!r}"
    blocks = re.findall(r"^```\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]
