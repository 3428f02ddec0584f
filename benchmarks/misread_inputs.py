"""Silently misread inputs: families of unusual inputs, each given to a public entry point and judged.

    python -m benchmarks.misread_inputs [--output FILE] [--only WORD] [--quick]

The families are in `benchmarks/misread/`. Their correct outcomes were written from the field cases, not from the code. Rewrites its
own section of `benchmarks/results/reliability.md`, and exits with 1 if an input exposed a fault.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from random import Random

from benchmarks.misread.judging import FAULTS, Family, Judged, judge
from benchmarks.sections import with_section
from verify.data.identity import KEY_VARIABLE
from verify.io.files import write_text
from verify.io.libraries import quiet_libraries

RESULTS = Path(__file__).parent / "results" / "reliability.md"
TITLE = "# Inputs that could be misread"
SEED = 15


def families() -> tuple[Family, ...]:
    """Return all families, by the number of the case that they come from."""
    from benchmarks.misread import chats, habits, people, records, weights

    every = (*weights.FAMILIES, *people.FAMILIES, *records.FAMILIES, *chats.FAMILIES, *habits.FAMILIES)
    return tuple(sorted(every, key=lambda family: family.case))


def run(
    chosen: Sequence[Family], folder: Path, quick: bool = False, tell: Callable[[str], None] = lambda _: None
) -> Iterator[Judged]:
    """Judge the members of families.

    Args:
        chosen: the families.
        folder: an empty folder.
        quick: only the first members of each.
        tell: progress callback.
    """
    from benchmarks.misread.world import Bench, World

    (folder / "world").mkdir(parents=True)
    world = World(folder / "world")
    for number, family in enumerate(chosen):
        (own := folder / f"{number}").mkdir()
        started, counts = time.monotonic(), Counter[str]()
        members = family.members(Bench(world, own, Random(f"{SEED} {family.name}")))
        for member in islice(members, family.quick if quick else None):
            yield (judged := judge(family, member))
            counts[judged.outcome] += 1
        tell(f"{family.case}: {family.name}: {dict(counts)} in {time.monotonic() - started:.1f} s")


def main() -> int:
    """Run all families, print the faults, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--only", help="only the families whose name or case holds this; nothing is written")
    parser.add_argument("--all", action="store_true", help="print every fault, and not the first three of each family")
    parser.add_argument("--quick", action="store_true", help="only the first members of each family; nothing is written")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # before anything of Hugging Face is imported: no input reaches the network
    quiet_libraries()
    import torch

    torch.set_num_threads(1)
    every = families()
    chosen = [one for one in every if given.only is None or given.only in (str(one.case), one.name) or given.only in one.name]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[KEY_VARIABLE] = str(Path(folder) / "record.key")
        found = list(run(chosen, Path(folder), given.quick, print))
    seconds = time.monotonic() - started
    faults = [one for one in found if one.outcome in FAULTS]
    shown = Counter[str]()
    for one in faults:
        shown[one.family.name] += 1
        if given.all or shown[one.family.name] <= 3:
            print(f"{one.outcome}: case {one.family.case}, {one.family.name}: {one.member}\n    {one.said[:300]}")
    print(f"{len(faults)} faults among {len(found)} inputs of {len(chosen)} families, {seconds:.0f} s")
    if given.only is None and not given.quick:
        before = given.output.read_text() if given.output.exists() else ""
        write_text(given.output, with_section(before, TITLE, section(found, seconds)))
    return int(bool(faults))


def section(found: Sequence[Judged], seconds: float) -> str:
    """Format the section of the results: the counts, and a line for each family."""
    counts = Counter(one.outcome for one in found)
    listed = list(dict.fromkeys(one.family for one in found))
    lines = "\n".join(_row(family, [one.outcome for one in found if one.family is family]) for family in listed)
    faults = "\n".join(f"- {one.outcome}: {one.family.name}: {one.member}" for one in found if one.outcome in FAULTS)
    return f"""{TITLE}

{datetime.now(UTC).date()}, one thread, {seconds:.0f} seconds. Every input goes to a public entry point (the loader of models, the
readers of records and requests, the encoder, `train`, `forget`, `audit`, the command lines). What is right about it was written
down from the input: an answer known beforehand, or a refusal in words (status 2) that names what was given.

**{counts["misread"]} silently misread inputs of {len(found)} tried**, in {len(listed)} families; {counts["crashed"]} ended in a
bare traceback, {counts["refused wrongly"]} were refused although they are good, {counts["refused unclearly"]} were refused without
the words that are needed, and {counts["disclosed"]} messages repeated a text of the input.

| case | family | inputs | read rightly | refused in words | silently misread | anything else |
| --- | --- | --- | --- | --- | --- | --- |
{lines}
{f"{chr(10)}{faults}{chr(10)}" if faults else ""}"""


def _row(family: Family, outcomes: Sequence[str]) -> str:
    counts = Counter(outcomes)
    other = sum(counts[name] for name in FAULTS if name != "misread")
    cells = (family.case, family.name, len(outcomes), counts["read"], counts["refused"], counts["misread"], other)
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
