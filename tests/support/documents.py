"""The commands and scripts that docs/operations.md shows."""

import re
from pathlib import Path

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def commands_in(section: str) -> list[str]:
    """The lines of the code blocks under a heading, continued lines joined; not those below it."""
    blocks = _blocks(section, "")
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


def script_in(section: str) -> str:
    """The one shell script that is shown under a heading."""
    (script,) = _blocks(section, "sh")
    return script


def tables_in(section: str) -> list[str]:
    """The TOML under a heading, a block each."""
    return _blocks(section, "toml")


def _blocks(section: str, language: str) -> list[str]:
    # A single # may also begin a comment in a script.
    pattern = rf"^##+ {re.escape(section)}\n(.*?)(?=^##|\Z)"
    found = re.search(pattern, OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{OPERATIONS.name} has no section {section!r}"
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", found[1], re.MULTILINE | re.DOTALL)
    return [block for marked, block in blocks if marked == language]
