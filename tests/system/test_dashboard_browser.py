"""Promise: a browser shows how the farm is, and no name in it does anything, from either server."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By

from hacktree.server.dashboard.publishing import publish_dashboard
from support.browser import assert_readable, chromium
from support.dashboards import ATTACK, IMAGE, hostile_farm
from support.qa import QaFarm
from support.servers import RunningServer, hacktree_serving, nginx_serving

NOW = 1_900_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> QaFarm:
    qa = hostile_farm(tmp_path_factory.mktemp("dashboard") / "farm")
    publish_dashboard(qa.repository, qa.database, NOW)
    return qa


Serving = Callable[[Path], AbstractContextManager[RunningServer]]


@pytest.mark.parametrize("serving", [nginx_serving, hacktree_serving], ids=["nginx", "hacktree"])
def test_the_page_shows_the_farm_and_runs_nothing(
    browser: WebDriver, farm: QaFarm, serving: Serving
) -> None:
    document = json.loads((farm.repository.path / "dashboard/dashboard.json").read_bytes())
    with serving(farm.repository.path) as server:
        browser.get(f"{server.url}/dashboard/index.html")
        assert_shown(browser, document)
        # Nothing was run, and nothing else was asked for.
        assert browser.title == "Build farm"
        assert browser.find_elements(By.CSS_SELECTOR, "script, img, iframe, object, form") == []
        assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
        asked = [entry.path for entry in server.requests() if "Chrome" in entry.agent]
        assert asked == ["/dashboard/index.html"]
        # Had something slipped through, it would not run: not even what a person at the page adds.
        browser.execute_script(
            "const added = document.createElement('script'); added.textContent ="
            " \"document.title = 'owned'\"; document.body.append(added);"
        )
        assert browser.title == "Build farm"
        browser.find_element(By.LINK_TEXT, "dashboard.json").click()
        assert json.loads(browser.find_element(By.TAG_NAME, "body").text) == document


def assert_shown(browser: WebDriver, document: dict[str, Any]) -> None:
    """What the document says is on the page, where a person looks for it."""
    for branch in document["branches"]:
        section = browser.find_element(By.ID, f"branch/{branch['name']}")
        assert branch["reason"] in section.text
        rows = section.find_elements(By.CSS_SELECTOR, "tbody tr")
        assert len(rows) == len(branch["builds"])
        for row, build in zip(rows, branch["builds"], strict=True):
            assert str(build["sequence"]) in row.text
            assert build["id"][:12] in row.text
            for verdict in build["verdicts"]:
                assert verdict["outcome"] in row.text
        browser.find_element(By.LINK_TEXT, branch["name"]).click()
        assert browser.execute_script("return document.querySelector(':target').id") == (
            f"branch/{branch['name']}"
        )
    text = browser.find_element(By.TAG_NAME, "body").text
    assert ATTACK in text
    assert IMAGE in text
    assert "Nothing is held" not in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_anybody(browser: WebDriver, farm: QaFarm, scheme: str) -> None:
    """Contrast of WCAG AA, names for what a screen reader jumps to, small screens."""
    assert_readable(browser, f"file://{farm.repository.path}/dashboard/index.html", scheme)
    assert [h.text for h in browser.find_elements(By.TAG_NAME, "h1")] == ["Build farm"]
