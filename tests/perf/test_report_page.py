"""The HTML report in a real browser: its plots, both themes, a phone, and that it needs no network and uses none."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from types import SimpleNamespace

import pytest
from browsing import DESKTOP, PHONE, chromium, resize
from report_documents import HOSTILE, compare, measure, tune
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from plansmith_perf.report import write_report

# Loading the page as a file asks for nothing else; the others never leave the browser.
OWN = ("file:", "data:", "blob:", "about:")


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def documents(plansmith, committed_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    closed = measure(plansmith, committed_server.grpc_url, folder / "closed.json", "-c", "1,2,4", "--seconds", "1.5")
    opened = measure(plansmith, committed_server.http_url, folder / "open.json", "--rate", "50,100", "--seconds", "1.5")
    return {"closed": closed, "open": opened, "peers": compare(closed), "tuning": tune(plansmith, folder)}


@pytest.fixture(scope="module")
def pages(documents, tmp_path_factory):
    """The address of each report: of one result, and of everything together."""
    folder = tmp_path_factory.mktemp("pages")
    write_report({"closed": documents["closed"]}, folder / "one.html")
    write_report(documents, folder / "all.html")
    return SimpleNamespace(one=(folder / "one.html").as_uri(), all=(folder / "all.html").as_uri(), folder=folder)


@pytest.fixture
def visit(browser):
    """Opens a page; gives the addresses that it asked for."""

    def opened(address: str, size: tuple[int, int] = DESKTOP, theme: str = "light") -> list[str]:
        resize(browser, size)
        choose(browser, theme)
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        browser.get(address)
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    return opened


def choose(browser, theme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def complaints(browser) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def drawn(browser, name: str) -> dict[str, int]:
    """How many points, bars, and lines with a length the plot shows."""
    return browser.execute_script(
        """
        const plot = document.getElementById(arguments[0]);
        const long = (path) => path.getTotalLength() > 1;
        return {
          points: plot.querySelectorAll(".scatterlayer .points path.point").length,
          lines: [...plot.querySelectorAll(".scatterlayer path.js-line")].filter(long).length,
          bars: [...plot.querySelectorAll(".barlayer .point path")].filter(long).length,
        };
        """,
        name,
    )


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_opens_without_errors_requests_or_a_horizontal_scrollbar(browser, visit, pages, size, theme):
    asked = visit(pages.all, size, theme)
    assert [address for address in asked if not address.startswith(OWN)] == []
    assert asked.count(pages.all) == 1
    assert complaints(browser) == []
    plots = browser.find_elements(By.CSS_SELECTOR, ".plot")
    assert len(plots) == 8
    for plot in plots:
        name = plot.get_attribute("id")
        assert sum(drawn(browser, name).values()) > 0, f"{name} is empty"
        assert 0 < plot.rect["width"] <= size[0]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    # A wide table scrolls in itself, and from the keyboard.
    wide = browser.execute_script(
        """
        const regions = [...document.querySelectorAll(".scroll")];
        return regions.filter((region) => region.scrollWidth > region.clientWidth).map((region) => region.tabIndex);
        """
    )
    assert set(wide) <= {0}
    assert wide or size == DESKTOP


def test_the_plots_show_every_measurement(browser, visit, pages, documents):
    visit(pages.one)
    measurements = documents["closed"].measurements
    count = len(measurements)
    # The median and p99 of each, and a line through either.
    assert drawn(browser, "throughput") == {"points": 2 * count, "lines": 2, "bars": 0}
    assert drawn(browser, "percentiles")["lines"] == count
    seconds = sum(len(measured.timeline) for measured in measurements)
    answered = sum(one.median_latency is not None for measured in measurements for one in measured.timeline)
    assert drawn(browser, "timeline-0")["points"] == seconds + 2 * answered
    # Queue, three steps of computing, and the rest; none was late in a closed loop.
    assert drawn(browser, "breakdown-0")["bars"] == 5 * count


def test_peers_and_trials_are_shown_with_their_figures(browser, visit, pages, documents):
    visit(pages.all)
    peers, record = documents["peers"], documents["tuning"]
    measured = [peer for peer in peers.peers if peer.status == "measured"]
    assert drawn(browser, "peers-2")["bars"] == len(measured)
    assert drawn(browser, "peers-2")["points"] == sum(len(peer.rounds) for peer in measured)
    assert drawn(browser, "trials-3")["points"] == sum(bool(trial.throughput) for trial in record.trials)
    rows = {
        row.text.split("\n")[0]: row.text for row in browser.find_elements(By.CSS_SELECTOR, "#comparison-2 tbody tr")
    }
    text = browser.find_element(By.ID, "comparison-2").text
    assert "to the baseline, Peer 1" in text
    assert "1.00x" in text
    assert "unavailable: no wheel" in text
    assert rows
    # Only addresses of the web become links.
    links = [link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "main section a")]
    assert set(links) == {"https://example.org/setup"}
    assert record.verdict.rstrip(".") in browser.find_element(By.ID, "summary").text


def test_the_theme_follows_the_system_while_the_page_is_open(browser, visit, pages):
    visit(pages.one)
    look = """
        const places = ["main > section", "h2", "#throughput path.js-line", "#throughput .xtick text"];
        const [surface, text, line, tick] = places.map((place) => getComputedStyle(document.querySelector(place)));
        return [surface.backgroundColor, text.color, line.stroke, tick.fill];
    """
    light = browser.execute_script(look)
    choose(browser, "dark")

    def all_changed(driver):
        now = driver.execute_script(look)
        return now if all(before != after for before, after in zip(light, now, strict=True)) else None

    # The page is told of the change with the browser's next frame.
    dark = WebDriverWait(browser, 20).until(all_changed)
    for surface, *inks in (light, dark):
        assert min(contrast(surface, ink) for ink in inks) >= 3
        assert contrast(surface, inks[0]) >= 7
    assert complaints(browser) == []


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2 of two colours as browsers write them."""

    def luminance(color: str) -> float:
        parts = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_headings_captions_and_row_headers_tell_a_screen_reader_the_way(browser, visit, pages):
    visit(pages.all)
    levels = [int(found.tag_name[1]) for found in browser.find_elements(By.CSS_SELECTOR, "h1, h2, h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    faults = browser.execute_script(
        """
        const faults = [];
        const ids = [...document.querySelectorAll("[id]")].filter((e) => !e.closest(".plot svg")).map((e) => e.id);
        if (new Set(ids).size !== ids.length) faults.push("ids");
        for (const table of document.querySelectorAll("table")) {
          if (!table.caption || !table.caption.textContent.trim()) faults.push("caption");
          for (const row of table.tBodies[0].rows) if (row.cells[0].scope !== "row") faults.push("row");
          const headings = [...table.tHead.rows[0].cells];
          if (headings.some((cell) => cell.scope !== "col" || !cell.textContent)) faults.push("column");
        }
        for (const plot of document.querySelectorAll(".plot"))
          if (plot.getAttribute("role") !== "img" || !plot.ariaLabel) faults.push("plot");
        for (const link of document.querySelectorAll("nav a"))
          if (!document.querySelector(link.getAttribute("href"))) faults.push("link");
        return faults;
        """
    )
    assert faults == []


def test_text_of_a_result_stays_text(browser, visit, documents, tmp_path):
    closed = documents["closed"]
    measured = closed.measurements[0].model_copy(update={"notes": [HOSTILE], "error_messages": {HOSTILE: 3}})
    hostile = closed.model_copy(update={"model": HOSTILE, "measurements": [measured, *closed.measurements[1:]]})
    write_report({HOSTILE: hostile, "<b>other</b>": closed}, tmp_path / "hostile.html")
    visit((tmp_path / "hostile.html").as_uri())
    assert complaints(browser) == []
    assert browser.execute_script("return window.intruder") is None
    assert browser.find_element(By.TAG_NAME, "h1").text.startswith(HOSTILE)
    assert browser.find_elements(By.CSS_SELECTOR, "main img, h1 img, figure b") == []
    legend = browser.execute_script("return document.querySelector('#throughput .legend').textContent")
    assert f"{HOSTILE}, p99" in legend
    assert "<b>other</b>, p99" in legend


def test_the_page_refuses_its_own_scripts_a_network(browser, visit, pages):
    asked = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        try_all = """
            const [address, done] = arguments;
            const image = new Image();
            const shown = new Promise((settle) => { image.onload = image.onerror = settle; });
            image.src = address + "image";
            const script = document.createElement("script");
            const ran = new Promise((settle) => { script.onload = script.onerror = settle; });
            script.src = address + "script";
            document.head.append(script);
            Promise.allSettled([fetch(address + "fetch"), shown, ran]).then((all) => done(all[0].status));
        """
        visit(pages.one)
        assert browser.execute_async_script(try_all, address) == "rejected"
        assert asked == []
        # The same is answered where no policy forbids it.
        (pages.folder / "open.html").write_text("<!DOCTYPE html><title>open</title>")
        visit((pages.folder / "open.html").as_uri())
        assert browser.execute_async_script(try_all, address) == "fulfilled"
        assert {"/fetch", "/image", "/script"} <= set(asked)
        server.shutdown()


def test_on_paper_everything_is_unfolded_and_light(browser, visit, pages):
    visit(pages.one, theme="dark")
    state = "return [document.querySelectorAll('details:not([open])').length, getComputedStyle(document.body).color]"
    folded, ink = browser.execute_script(state)
    assert folded
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    unfolded, dark_ink = browser.execute_script(state)
    assert unfolded == 0
    assert contrast(dark_ink, "rgb(255, 255, 255)") > 7 > contrast(ink, "rgb(255, 255, 255)")
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(state) == [folded, ink]
