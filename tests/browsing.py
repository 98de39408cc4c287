"""Chromium without a window, as a desktop and as a phone."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DESKTOP", "PHONE", "chromium", "resize"]

DESKTOP, PHONE = (1280, 900), (390, 844)


@contextlib.contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser that keeps its log and what it asks for."""
    program, driver_program = shutil.which("chromium"), shutil.which("chromedriver")
    assert program, "pages are opened in a browser: apt-get install chromium chromium-driver"
    assert driver_program, "pages are opened in a browser: apt-get install chromium-driver"
    options = ChromeOptions()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(driver_program))
    try:
        yield driver
    finally:
        driver.quit()


def resize(browser: Chrome, size: tuple[int, int]) -> None:
    """Show the next pages at this size, with touch as on a phone where it is one's."""
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": size == PHONE})
