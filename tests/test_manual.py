"""The manual pages are written from the commands' own parsers."""

import runpy
import sys
from pathlib import Path

import pytest

from hacktree.common.cli.main import load_catalog

GENERATOR = Path(__file__).resolve().parent.parent / "tools" / "man.py"


def test_every_command_has_a_page_that_states_its_exit_statuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script can rely on what a command's exit status means, and a person can look it up."""
    monkeypatch.setattr(sys, "argv", ["man.py", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(GENERATOR), run_name="__main__")
    assert ended.value.code == 0
    names = set(load_catalog())
    assert {page.name for page in tmp_path.iterdir()} == {
        "hacktree.1",
        *(f"hacktree-{name}.1" for name in names),
    }
    silent = [
        page.name
        for page in tmp_path.glob("hacktree-*.1")
        if '.SH "EXIT STATUSES"' not in page.read_text()
    ]
    assert silent == []
