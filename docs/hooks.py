"""MkDocs hooks: publish `benchmarks/results` with the site, so that every number on a page has its table one click away."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
LINK = re.compile(r"\]\((?:\.\./)+benchmarks/results/([^)]+)\)")
BACK = "](../../docs/"


def on_files(files: Files, config: Any) -> Files:
    """Add tables and figures as `results/`; raw JSON stays in the repository."""
    for path in sorted([*RESULTS.glob("*.md"), *RESULTS.glob("*.svg")]):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links into `benchmarks/results` at the copies in the site, and links of these pages back into `docs` likewise.

    In the repository both are right as they stand.
    """
    here = posixpath.dirname(page.file.src_uri)
    if here == "results":
        markdown = markdown.replace(BACK, "](../")
    return LINK.sub(lambda found: f"]({posixpath.relpath('results', here or '.')}/{found[1]})", markdown)
