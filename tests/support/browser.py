"""A real browser, Chromium, without a window and with a profile of its own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver

_SWITCHES = (
    *("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "disable-dev-shm-usage"),
)


def _program(name: str, package: str) -> str:
    path = shutil.which(name)
    assert path is not None, f"{name} is missing: install the package {package} (make system)"
    return path


@contextmanager
def chromium() -> Iterator[WebDriver]:
    """A browser that is ended with the block."""
    options = Options()
    options.binary_location = _program("chromium", "chromium")
    with tempfile.TemporaryDirectory(prefix="hacktree-browser-") as profile:
        for switch in _SWITCHES:
            options.add_argument(f"--{switch}")
        options.add_argument(f"--user-data-dir={profile}")
        service = Service(_program("chromedriver", "chromium-driver"))
        driver = WebDriver(options=options, service=service)
        try:
            yield driver
        finally:
            driver.quit()
