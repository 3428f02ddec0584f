"""Command line of the reliability benchmark.

    python -m benchmarks.reliability --output DIR [--sections kills cleaning parsers http ledger scan] [--seconds 360]

Eight records are deleted from a model of 170,000 weights by retraining, with an audit against four references; every process is
killed at a random moment and the same call repeated, until the request is closed. Clean-up is too short for random kills to hit it:
there, a process is killed before every single step that changes a file or the ledger. Then every parser is fed 10,000 inputs, the
HTTP service 1,000 requests, one ledger 10,000, and `unlearn scan` a million records.

A call goes on where an earlier one with the same DIR ended, and begins nothing after `--seconds`. Each part of the page
(`benchmarks/results/reliability.md`: kills, input, load) is written once all of it is measured. Run each section by itself: what is
published as its peak memory is that of its process.
"""

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from verify.data.identity import KEY_VARIABLE
from verify.io.files import read_json, write_json, write_text
from verify.io.libraries import quiet_libraries

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "reliability.md"
sys.path.append(str(ROOT / "tests"))  # the world of the tests, and what is fed to parsers
SECTIONS = ("kills", "cleaning", "parsers", "http", "ledger", "scan")


def main() -> None:
    """Run the sections that are not finished, and write the parts of the page that were measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--seconds", type=float, default=360.0, help="begin nothing after this time")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    os.environ[KEY_VARIABLE] = str((given.output / "record.key").resolve())
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))  # for programs that run in other folders
    quiet_libraries()
    import torch

    from benchmarks.reliability.page import pages
    from benchmarks.sections import with_section

    torch.set_num_threads(1)
    last = time.monotonic() + given.seconds
    for name in given.sections:
        if not found(given.output, name).get("done") and time.monotonic() < last:
            measure(given.output, name, last)
    sections = {name: found(given.output, name) for name in SECTIONS}
    text = RESULTS.read_text() if RESULTS.exists() else ""
    for title, section in pages(sections).items():
        text = with_section(text, title, section)
    write_text(RESULTS, text)
    print({name: bool(entry.get("done")) for name, entry in sections.items()})


def found(output: Path, name: str) -> dict[str, Any]:
    """Return what was measured of a section so far."""
    path = output / f"{name}.json"
    return dict(read_json(path)) if path.is_file() else {}


def measure(output: Path, name: str, last: float) -> None:
    """Go on with a section, and add the time that it took and the peak of its memory to what was measured."""
    from benchmarks.reliability import kills, load, parsers

    run: Mapping[str, Callable[[Path, Mapping[str, Any], float], dict[str, Any]]] = {
        "kills": kills.at_random,
        "cleaning": kills.in_cleaning,
        "parsers": parsers.feed_all,
        "http": load.http,
        "ledger": load.ledger,
        "scan": load.scan,
    }
    before, started = found(output, name), time.monotonic()
    content = run[name](output, before, last)
    own, children = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    content["seconds"] = before.get("seconds", 0.0) + time.monotonic() - started
    content["peak"] = max(before.get("peak", 0.0), own, children)  # MiB
    write_json(output / f"{name}.json", content)


main()
