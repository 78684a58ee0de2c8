"""A real browser, Chromium, without a window and with a profile of its own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By

_SWITCHES = (
    *("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "disable-dev-shm-usage"),
)

_CONTRAST = """
const luminance = colour => {
  const parts = colour.match(/[0-9.]+/g).slice(0, 3).map(part => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const ground = element => {
  const colour = getComputedStyle(element).backgroundColor;
  return colour === 'rgba(0, 0, 0, 0)' ? ground(element.parentElement) : colour;
};
const ratios = [...document.querySelectorAll('body *')].filter(
  element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())
).map(element => {
  const pair = [luminance(getComputedStyle(element).color), luminance(ground(element))];
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
});
return Math.min(...ratios);
"""


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


def assert_readable(browser: WebDriver, url: str, scheme: str) -> None:
    """A page in `light` or `dark` colours on a small screen: contrast of WCAG AA, names for what
    a screen reader jumps to, nothing but tables scrolls sideways.
    """
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
    browser.set_window_size(500, 900)
    browser.get(url)
    assert browser.execute_script(_CONTRAST) >= 4.5
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    shade = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(",")))
    assert (shade < 300) == (scheme == "dark")
    for region in browser.find_elements(By.CSS_SELECTOR, "main section, [role=region], [role=img]"):
        assert region.accessible_name
    wider = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not browser.execute_script(wider), "only tables scroll sideways"
    identifiers = [e.get_attribute("id") for e in browser.find_elements(By.CSS_SELECTOR, "[id]")]
    assert len(set(identifiers)) == len(identifiers)
