"""The report as a reader sees it: in Chromium, on a phone, and on paper."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audits import evidence_of
from score_tables import simulated_table

from verify.report.html import render, render_comparison

pytestmark = pytest.mark.browser


PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
TOO_WIDE = """width => [...document.querySelectorAll('body *')]
    .filter(element => !element.closest('.scroll') && element.getBoundingClientRect().right > width + 1)
    .map(element => element.tagName)"""
LOWEST_CONTRAST = """() => {
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const linear = value => value / 255 <= .03928 ? value / 255 / 12.92 : ((value / 255 + .055) / 1.055) ** 2.4;
    const light = colour => { const [r, g, b] = parse(colour).map(linear); return .2126 * r + .7152 * g + .0722 * b; };
    const behind = element => {
        for (; element; element = element.parentElement) {
            const colour = getComputedStyle(element).backgroundColor;
            if (parse(colour)[3] !== 0) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const contrast = element => {
        const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
        return (pair[0] + .05) / (pair[1] + .05);
    };
    const texts = [...document.querySelectorAll('p, li, td, th, h1, h2, h3, caption')].filter(e => e.textContent.trim());
    return Math.min(...texts.map(contrast));
}"""
CUT_ON_PAPER = """() => [...document.querySelectorAll('.scroll')]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible').length"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; skips where there is none."""
    program = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    )
    if program is None:
        pytest.skip("Chromium is not installed (apt-get install chromium), so no page can be looked at")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=["report", "comparison"])
def page_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered page."""
    evidence = evidence_of(simulated_table(kept=0.2), name="a-model-with-a-rather-long-name-" * 3)
    path = tmp_path_factory.mktemp("page") / f"{request.param}.html"
    path.write_text(render(evidence) if request.param == "report" else render_comparison([("npo", evidence, 0.3)] * 3))
    return path


@pytest.mark.parametrize("width", [320, 1280])
def test_no_errors_no_network_no_overflow(browser: Any, page_file: Path, width: int) -> None:
    """Nothing in the console, no request but the file itself, and nothing wider than the window."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    assert messages == []
    assert requests == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE, width) == []
    page.close()


def test_readable_without_colour(browser: Any, page_file: Path) -> None:
    """Every text stands out from its background by a contrast of at least 4.5 to 1."""
    page = browser.new_page()
    page.goto(page_file.as_uri())
    assert page.evaluate(LOWEST_CONTRAST) >= 4.5
    page.close()


def test_on_paper(browser: Any, page_file: Path, tmp_path: Path) -> None:
    """Printed, no table is cut: scrolling regions show everything, and the sheet is as wide as its content."""
    page = browser.new_page(viewport={"width": 794, "height": 1123})
    page.goto(page_file.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate(CUT_ON_PAPER) == 0
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.close()
