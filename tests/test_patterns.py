"""No validator takes a newline at the end for nothing: names go into paths, logs and headers."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hacktree.client.bisect.core.model import CommitId
from hacktree.server.leasing.messages import SessionId
from hacktree.server.promotion.messages import Machine, SuiteName

PROJECT = Path(__file__).resolve().parents[1]
PORTIONS = ("common", "client", "server")


@pytest.mark.parametrize(
    ("kind", "text"),
    [(CommitId, "0" * 64), (SessionId, "0" * 32), (Machine, "lab 1"), (SuiteName, "fast/qa")],
)
def test_a_name_with_a_newline_at_its_end_is_refused(kind: Any, text: str) -> None:
    assert msgspec.convert(text, kind) == text
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(f"{text}\n", kind)


def test_no_pattern_lets_one_pass() -> None:
    """msgspec looks for a pattern anywhere, so it is anchored: as JSON Schema and Python agree."""
    found = [
        (str(path), pattern)
        for portion in PORTIONS
        for path in (PROJECT / portion).rglob("*.py")
        for pattern in re.findall(r'\bpattern=f?"([^"]*)"', path.read_text())
    ]
    assert len(found) > 5
    assert [one for one in found if not re.fullmatch(r"\^.*\$\(\?!\\\\n\)", one[1])] == []
