"""PDF output: prints a page with headless Chromium, without network access."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from verify.errors import InputError, RunError
from verify.io.extras import missing
from verify.io.files import atomic_file

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VARIABLE = "CHROMIUM"


def chromium() -> str | None:
    """Return the Chromium program: $CHROMIUM, or the first one installed; None where there is none."""
    named = os.environ.get(VARIABLE)
    return named or next((found for name in PROGRAMS if (found := shutil.which(name))), None)


def write_pdf(html: str, path: str | Path) -> None:
    """Print a page of this package to a PDF file, atomically.

    Args:
        html: the page; self-contained, without script.
        path: the file to write.

    Raises:
        InputError: Chromium or playwright is not installed.
        RunError: Chromium could not print the page.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise missing("a PDF (playwright)", "pdf", "print the HTML file from a browser") from None
    program = chromium()
    if program is None or not shutil.which(program):
        raise InputError(
            f"a PDF needs Chromium or Chrome, and {program or 'none'} was found. Install it (apt-get install chromium), name it in "
            f"${VARIABLE}, or print the HTML file from a browser."
        )
    try:
        # In a separate thread: playwright's sync API refuses to start where an event loop is running, as in a notebook.
        with ThreadPoolExecutor(1) as thread:
            content = thread.submit(_print, sync_playwright, program, html).result()
    except Error as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"Chromium ({program}) could not print the page: {reason}. Print the HTML file from a browser.") from None
    with atomic_file(path) as stream:
        stream.write(content)


def _print(start: Any, program: str, html: str) -> bytes:
    # Chromium's sandbox does not start as root; the page is this package's own and has no scripts.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with start() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        page = browser.new_context(java_script_enabled=False, offline=True).new_page()
        page.set_content(html)
        content = page.pdf(prefer_css_page_size=True, print_background=True, tagged=True, outline=True)
        browser.close()
    return bytes(content)
