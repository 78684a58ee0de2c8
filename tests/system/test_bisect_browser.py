"""Promise: a browser shows what a bisection found, and no name in the report does anything."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By

from hacktree.client.bisect.core.model import Verdict
from hacktree.client.bisect.core.state import current_state
from hacktree.client.bisect.report.html import render_html
from hacktree.client.bisect.report.result import Report, headline
from hacktree.client.bisect.report.verdict import compare_commits
from hacktree.common.objects.names import display_text
from support.bisecting import make_session
from support.bisections import ATTACK, answered, candidates, make_history, skipped
from support.browser import assert_readable, chromium
from support.pulling import make_repository


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    repository = make_repository(tmp_path_factory.mktemp("bisect") / "repo")
    commits = make_history(repository, 20, 12)
    session = answered(
        make_session(candidates(repository, commits)),
        (9, Verdict.GOOD),
        (14, Verdict.BAD),
        note="said by a test <b>",
    )
    session = skipped(session, 12, 13)
    session = answered(session, (10, Verdict.GOOD), (11, Verdict.BAD))
    old, new = (repository.load_commit(commits[index]) for index in (10, 11))
    owners = {b"usr/lib/libGL.so": ("mesa",)}
    difference = compare_commits(repository.load_tree, old, new, lambda paths: (owners, owners))
    hints = {commits[3].hex(): ATTACK}
    return Report(session, current_state(session), old, new, difference, hints=hints)


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(render_html(report))
    return path


def test_the_page_shows_the_result_and_runs_nothing(
    browser: WebDriver, page: Path, report: Report
) -> None:
    """The build, the package, the drawing and the tests are there; hostile text is only text."""
    browser.get(page.as_uri())
    assert browser.title == "Bisection of fastqa"
    assert browser.find_element(By.ID, "result").text == headline(report) + "."
    text = browser.find_element(By.TAG_NAME, "body").text
    for shown in (report.last.commit, report.before.commit, "24.1 → 24.2", "/usr/lib/libGL.so"):
        assert shown in text
    assert "said by a test <b>" in text
    assert display_text(ATTACK) in text
    assert browser.find_elements(By.CSS_SELECTOR, "script, img, iframe, object, form, b") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    browser.execute_script(
        "const added = document.createElement('script'); added.textContent ="
        " \"document.title = 'owned'\"; document.body.append(added);"
    )
    assert browser.title == "Bisection of fastqa"


def test_the_history_is_drawn(browser: WebDriver, page: Path, report: Report) -> None:
    """The line is covered, older builds are left of newer ones, verdicts differ in their shape."""
    browser.get(page.as_uri())
    drawing = browser.find_element(By.CSS_SELECTOR, "svg")
    assert drawing.get_attribute("aria-label") == (
        "20 builds of fastqa: 11 good, 9 bad, 0 between them"
    )
    boxes = [one.rect for one in browser.find_elements(By.CSS_SELECTOR, "svg .band")]
    for left, right in pairwise(boxes):
        assert abs(left["x"] + left["width"] - right["x"]) <= 2
    assert boxes[0]["x"] >= drawing.rect["x"]
    assert boxes[-1]["x"] + boxes[-1]["width"] <= drawing.rect["x"] + drawing.rect["width"] + 1
    good = browser.find_elements(By.CSS_SELECTOR, "svg .spot.good.tested circle")
    bad = browser.find_elements(By.CSS_SELECTOR, "svg .spot.bad.tested rect")
    assert (len(good), len(bad)) == (2, 2)
    assert max(one.rect["x"] for one in good) < min(one.rect["x"] for one in bad)
    fills = {one.value_of_css_property("fill") for one in (good[0], bad[0])}
    assert len(fills) == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_anybody(browser: WebDriver, page: Path, scheme: str) -> None:
    """Contrast, names, small screens."""
    assert_readable(browser, page.as_uri(), scheme)
