"""A real browser for tests of pages: the Chromium of the system, without a window."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
_SIDEWAYS = """return [...document.querySelectorAll("body *")].filter((each) => {
  const box = each.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !each.closest(".strip, .scroll");
}).map((each) => each.outerHTML.slice(0, 80))"""


class Page:
    """One open page; thin names for what the tests ask."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def resize(self, width: int, height: int, scheme: str = "light") -> None:
        """Be a screen of this size that asks for light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, path: Path, anchor: str = "") -> None:
        """Open a file anew and wait until it is read and its pictures are there."""
        self.driver.get("about:blank")
        self.driver.get(path.as_uri() + anchor)
        self.wait("document.readyState === 'complete'")
        self.wait("!document.querySelector('[aria-busy=true]')")
        self.wait("[...document.querySelectorAll('#detail img')].every((i) => i.complete)")

    def wait(self, condition: str) -> None:
        """Wait until an expression of the page is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60).until(lambda _: self.ask(f"return Boolean({condition})"))

    def ask(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def click(self, selector: str) -> None:
        """Click what a selector finds first."""
        self.driver.find_element("css selector", selector).click()

    def press(self, key: str) -> None:
        """Press a key while nothing has the focus."""
        self.driver.find_element("css selector", "body").send_keys(key)

    def list_overflow(self) -> list[str]:
        """Return what sticks out of the window sideways and is no strip that scrolls by itself."""
        is_wide = self.ask("return document.documentElement.scrollWidth > innerWidth")
        return [*self.ask(_SIDEWAYS), *(["the page scrolls sideways"] if is_wide else [])]

    def list_violations(self) -> list[str]:
        """Return what axe-core finds against WCAG 2.1 AA and its best practices."""
        axe = pytest.importorskip("axe_core_python.selenium", reason="axe-core-python is missing")
        found = axe.Axe().run(self.driver)["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]

    def read_log(self) -> list[str]:
        """Return what the browser complained about."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def start_browser() -> Iterator[Page]:
    """Start Chromium; skips where there is none."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in _ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = selenium.Chrome(options=options, service=Service(driver))
    try:
        yield Page(browser)
    finally:
        browser.quit()
