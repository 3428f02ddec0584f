"""The report as a reader sees it: in Chromium, on a phone, and on paper."""

from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from audits import evidence_of
from deletions import executed_record, hostile_record, of_other_weights, proof_about, record_of
from score_tables import simulated_table

from verify.certificate.check import Signer
from verify.report import deletion
from verify.report.annex import render_annex
from verify.report.html import render, render_comparison
from verify.report.letter import write_letter
from verify.report.pdf import chromium, write_pdf
from verify.schema.evidence import Evidence

pytestmark = pytest.mark.browser

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
SHEET = (657, 1001)
"""The text area of an A4 sheet in CSS pixels: 210 by 297 millimetres less the margins of the style sheet."""
CUT_ON_PAPER = """() => [...document.querySelectorAll('.scroll')]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible').length"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; skips where there is none."""
    program = chromium()
    if program is None:
        pytest.skip("Chromium is not installed (apt-get install chromium), so no page can be looked at")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@cache
def kept_a_fifth() -> Evidence:
    """Evidence about a model that kept a fifth; its name is long."""
    return evidence_of(simulated_table(kept=0.2), name="a-model-with-a-rather-long-name-" * 3)


@cache
def made(kind: str) -> str:
    """A page of each kind, the last with hostile words wherever words can stand."""
    evidence = kept_a_fifth()
    match kind:
        case "report":
            return render(evidence)
        case "comparison":
            return render_comparison([(name, evidence, 0.3) for name in ("npo", "_simnpo", "$retrain$ " * 9)])
        case "models":
            other = of_other_weights(evidence_of(simulated_table()))
            return deletion.render(record_of(evidence, other), [evidence, other])
        case "executed":
            with TemporaryDirectory() as folder:
                record = executed_record(evidence, proof_about(evidence, 20, 6), Path(folder))
            proofs = [proof_about(evidence, 20, 6)]
            signers = [Signer("operator", "3f" * 32), Signer("auditor", "9a" * 32)]
            return deletion.render(record, [evidence], certificate="certificate.json", signers=signers, proofs=proofs)
        case "letter":
            record = record_of(evidence)
            return write_letter(record.requests[0], record, sent=date(2026, 12, 1)).html
        case "annex":
            return render_annex(evidence)
        case "hostile":
            return deletion.render(hostile_record(evidence), [evidence], certificate=hostile_record(evidence).limits[0])
    signers = [Signer("operator", "3f" * 32), Signer("auditor", "9a" * 32)]
    return deletion.render(record_of(evidence), [evidence], certificate="certificate.json", signers=signers)


@pytest.fixture(scope="module", params=["report", "comparison", "deletion", "executed", "models", "hostile", "letter", "annex"])
def page_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered page."""
    path = tmp_path_factory.mktemp("page") / f"{request.param}.html"
    path.write_text(made(request.param))
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


@pytest.mark.slow
def test_accessible(browser: Any, page_file: Path) -> None:
    """axe finds no violation of any of its rules, on a desk and on a phone."""
    from axe_playwright_python.sync_playwright import Axe

    for width in (1280, 320):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(page_file.as_uri())
        # Of rules that pass, one element each is enough: to describe them all takes longer than the rules.
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response
        assert [(entry["id"], entry["nodes"][0]["html"][:200]) for entry in found["violations"]] == []
        assert len(found["passes"]) > 15
        page.close()


def test_on_paper(browser: Any, page_file: Path) -> None:
    """Printed, no table is cut: scrolling regions show everything, and nothing is wider than the sheet's text."""
    page = browser.new_page(viewport={"width": SHEET[0], "height": SHEET[1]})
    page.goto(page_file.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate(CUT_ON_PAPER) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= SHEET[0]
    page.close()


@pytest.mark.parametrize("font", ["serif", "sans-serif"])
@pytest.mark.parametrize("kind", ["deletion", "executed", "annex"])
def test_the_first_page_is_one_page(browser: Any, tmp_path: Path, kind: str, font: str) -> None:
    """Verdict, scope, outcomes, what was shown, cost, limits and signatures fit on one sheet of A4, with or without serifs."""
    path = tmp_path / "deletion.html"
    path.write_text(made(kind))
    page = browser.new_page(viewport={"width": SHEET[0], "height": SHEET[1]})
    page.goto(path.as_uri())
    page.emulate_media(media="print")
    page.add_style_tag(content=f"body {{ font-family: {font}; }}")
    assert page.evaluate("document.querySelector('.first').getBoundingClientRect().height") <= SHEET[1]
    page.close()


def test_pdf(browser: Any, tmp_path: Path) -> None:
    """The PDF comes from the same page, and is a whole file."""
    write_pdf(made("letter"), tmp_path / "letter.pdf")
    content = (tmp_path / "letter.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert content.rstrip().endswith(b"%%EOF")
