"""The servers under test, over one directory."""

from collections.abc import Iterator

import pytest

from support.layouts import Published, published_layout
from support.servers import RunningServer, hacktree_serving, nginx_serving


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """The layout that the servers serve."""
    with published_layout(tmp_path_factory.mktemp("published") / "repository") as layout:
        yield layout


@pytest.fixture(scope="session")
def nginx(published: Published) -> Iterator[RunningServer]:
    """A real nginx over the layout."""
    with nginx_serving(published.directory) as server:
        yield server


@pytest.fixture(scope="session")
def hacktree_server(published: Published) -> Iterator[RunningServer]:
    """`hacktree serve` over the layout."""
    with hacktree_serving(published.directory) as server:
        yield server


@pytest.fixture(params=["hacktree_server", "nginx"], ids=["hacktree", "nginx"])
def server(request: pytest.FixtureRequest) -> RunningServer:
    """Each server in turn: the contract holds for both."""
    running: RunningServer = request.getfixturevalue(request.param)
    return running
