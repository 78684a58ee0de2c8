"""An archive that publishes, and a machine that pulls from it."""

from pathlib import Path

import pytest

from hacktree.common.repository.layout import Mode
from hacktree.common.repository.repository import Repository
from support.pulling import make_repository


@pytest.fixture
def farm(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "farm")


@pytest.fixture
def client(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "client", Mode.BARE_USER)
