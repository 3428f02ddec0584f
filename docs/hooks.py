"""MkDocs hooks: publish `benchmarks/results` with the site, so that every number on a page has its table one click away."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
LINK = re.compile(r"\]\((?:\.\./)+benchmarks/results/([^)]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add tables and figures as `results/`; raw JSON stays in the repository."""
    for path in sorted([*RESULTS.glob("*.md"), *RESULTS.glob("*.svg")]):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links into `benchmarks/results` (right in the repository) at the copies in the site."""
    here = posixpath.dirname(page.file.src_uri)
    return LINK.sub(lambda found: f"]({posixpath.relpath('results', here or '.')}/{found[1]})", markdown)
