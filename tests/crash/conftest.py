"""Programs that are killed on purpose run without coverage.

Its own files' system calls would be counted, and killed, with the program's.
"""

import os

import pytest


@pytest.fixture(autouse=True)
def _without_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
