"""Command line of the re-execution benchmark.

    python -m benchmarks.reexecution --output DIR [--honest 100] [--dishonest 200]

Rewrites its own section of `benchmarks/results/reexecution.md`. Resumable: every run is noted in DIR as soon as it is judged, and
drawn by its number.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from verify.data.identity import KEY_VARIABLE
from verify.io.files import read_json, write_json, write_text
from verify.io.libraries import quiet_libraries

RESULTS = Path(__file__).parents[1] / "results" / "reexecution.md"
sys.path.append(str(Path(__file__).parents[2] / "tests"))  # the tiny models of the tests, and what an operator can do to files
Entry = TypeVar("Entry")


def main() -> None:
    """Run all parts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--honest", type=int, default=100)
    parser.add_argument("--dishonest", type=int, default=200)
    parser.add_argument("--prepared", type=int, default=20)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    os.environ[KEY_VARIABLE] = str(given.output / "record.key")
    quiet_libraries()
    import torch

    from benchmarks.reexecution import costs, run, sampling
    from benchmarks.reexecution.page import TITLE, page
    from benchmarks.reexecution.worlds import base_of, threads
    from benchmarks.sections import with_section

    torch.set_num_threads(1)
    output, pools = given.output, run.pools(given.output)
    dishonest = [
        _kept(output, "dishonest", n, run.Result, lambda n: [run.dishonest(n, output, pools)]) for n in range(given.dishonest)
    ]
    honest = [_kept(output, "honest", n, run.Result, lambda n: [run.honest(n, output)]) for n in range(given.honest)]
    prepared = tuple(
        [
            _kept(output, f"prepared-{whole}", n, run.Result, lambda n, whole=whole: [run.prepared(n, output, pools, whole)])
            for n in range(given.prepared)
        ]
        for whole in (False, True)
    )
    kept, world = output / "false-training", pools[0][0]
    with threads(world.setting.threads):
        sizes = [
            _kept(output, "sampled", size, sampling.Sampled, lambda size: [sampling.sample(world, kept, size)])
            for size in sampling.SIZES
        ]
    with run.new_folder(output) as folder:
        base = base_of(output, False)
        sharded = _kept(output, "shards", 0, costs.Cost, lambda _: costs.shards(base, folder / "shards"))
        rolled = _kept(output, "rollback", 0, costs.Cost, lambda _: costs.rollback(base, folder / "rollback"))
    flat = [[one for entry in part for one in entry] for part in (honest, dishonest, *prepared)]
    text = page(flat[0], flat[1], (flat[2], flat[3]), [one for entry in sizes for one in entry], (sharded, rolled))
    write_text(RESULTS, with_section(RESULTS.read_text() if RESULTS.exists() else "", TITLE, text))
    print(text)


def _kept(output: Path, part: str, number: int, kind: type[Entry], make: Callable[[int], list[Entry]]) -> list[Entry]:
    """Return the noted results of one run, made if there are none."""
    path = output / f"{part}.json"
    noted: dict[str, list[dict[str, Any]]] = read_json(path) if path.is_file() else {}
    if str(number) not in noted:
        made: list[Any] = make(number)
        noted[str(number)] = [asdict(one) for one in made]
        write_json(path, noted)
        print(part, number, *(getattr(one, "kind", "") for one in made), *(getattr(one, "word", "") for one in made), flush=True)
    return [kind(**one) for one in noted[str(number)]]


if __name__ == "__main__":
    main()
