"""What does a deletion survive? kill -9 at random moments, from a request's receipt to its closing, and hostile input.

    python benchmarks/reliability.py --output DIR [--kills 200] [--minutes M] [--inputs 10000]

A model of 170,000 weights is freed of eight records, by retraining, with an audit against four references; every process that does
it is killed at a random moment and the same call made again, until the request is closed. Cleaning is so short that chance hardly
ever falls into it: there, a process is killed before every single step by which it changes a file or the ledger. Then every parser
of requests is given inputs that hypothesis makes up. Rewrites its own section of `benchmarks/results/reliability.md`.
"""

import argparse
import math
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from verify.data.identity import KEY_VARIABLE
from verify.io.files import write_text
from verify.io.libraries import quiet_libraries

if TYPE_CHECKING:
    from kills import Figures

RESULTS = Path(__file__).parent / "results" / "reliability.md"
TITLE = "# What a deletion survives"
sys.path += [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parents[1])]  # the world of the tests, and this package


def main() -> None:
    """Kill, feed, and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=math.inf, help="make no kill after so many")
    parser.add_argument("--inputs", type=int, default=10_000)
    given = parser.parse_args()
    given.output.mkdir(parents=True)
    os.environ[KEY_VARIABLE] = str(given.output / "record.key")
    quiet_libraries()
    import torch
    from deletion_world import build_world
    from hostile_inputs import PARSERS, feed
    from kills import kill_many
    from kills_in_cleaning import kill_in_cleaning

    import unlearn.requests.planning
    from benchmarks.sections import with_section

    torch.set_num_threads(1)
    # What an audit can show is simulated for the reader of a plan; it changes nothing that is done.
    setattr(unlearn.requests.planning, "describe_power", lambda *_: "not simulated here")  # noqa: B010 - typed as a function of a module
    built = build_world(given.output / "world")
    started = time.monotonic()
    figures = kill_many(built, given.output, given.kills, seed=0, tell=print, minutes=given.minutes)
    minutes = (time.monotonic() - started) / 60
    (given.output / "cleaning").mkdir()
    cleaned = kill_in_cleaning(built, given.output / "cleaning", tell=print)
    rows = [f"| {name} | {feed(name, given.inputs, given.output)} | 0 |" for name in PARSERS]
    text = f"""{TITLE}

{datetime.now(UTC).date()}, {platform.machine()}, {os.cpu_count()} cores shared with other work, one thread, {minutes:.0f} minutes
of kills. A small Llama is freed of eight records, from the receipt of the request to the signed certificate; a log, the training
file and the old model are cleaned up on the way. Every process that leads the request is killed with SIGKILL at a random moment.
Cleaning takes a fraction of a second, so it is killed by count: once before each of its {cleaned.deletions} steps (a file opened
for writing, renamed or removed, a folder made or removed, an event noted), and once more before the second step of going on.

| killed | kills | deletions led to their end | lost | done twice | other than undisturbed | unsound at the end |
| --- | --- | --- | --- | --- | --- | --- |
{_row("at random", figures)}
{_row("in cleaning", cleaned)}

Lost: an event or request missing from the ledger, old weights gone before they were retired, new weights or record not whole. Done
twice: a method or an audit that ran to its end a second time. Other: other events or weights, after kills in cleaning also other
counts of what was removed. Unsound: the certificate does not hold against the new model, the
ledger and the record, or report or letter are missing, or a deleted text stands in a file. State of the request when the kill fell:
{_states(figures)}; in cleaning {_states(cleaned)}.

Inputs made up by hypothesis; whatever is not taken is refused with a message (`InputError`) that repeats no value of the input:

| parser | inputs | anything else |
| --- | --- | --- |
{chr(10).join(rows)}
"""
    write_text(RESULTS, with_section(RESULTS.read_text() if RESULTS.exists() else "", TITLE, text))
    print(text)


def _row(how: str, figures: "Figures") -> str:
    counts = (figures.kills, figures.deletions, figures.lost, figures.twice, figures.different, figures.unsound)
    return f"| {how} | {' | '.join(map(str, counts))} |"


def _states(figures: "Figures") -> str:
    return ", ".join(f"{state} {count}" for state, count in sorted(figures.states.items(), key=lambda entry: -entry[1]))


if __name__ == "__main__":
    main()
