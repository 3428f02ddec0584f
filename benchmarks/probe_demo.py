"""Robustness probes on the demo's NPO model.

    python -m benchmarks.probe_demo --demo DIR

Runs `unlearn demo --output DIR` first, where it was not run. Writes `benchmarks/results/probe_demo_npo.md`.
"""

import argparse
import time
from pathlib import Path

from benchmarks.demo_world import demo_world, machine, references_of
from verify.cli.console import progress_bar
from verify.io.files import write_text
from verify.io.libraries import quiet_libraries
from verify.measures.robustness import probe

PAGE = Path(__file__).parent / "results" / "probe_demo_npo.md"


def main() -> None:
    """Probe the model and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True)
    demo = demo_world(parser.parse_args().demo)
    quiet_libraries()
    sets = {f"{role}_set": str(demo / "data" / f"{role}.jsonl") for role in ("forget", "retain")}
    began = time.process_time()
    with progress_bar("loading") as progress:
        found = probe(
            str(demo / "models" / "npo"),
            str(demo / "models" / "original"),
            [str(path) for path in references_of(demo)],
            **sets,
            holdout_set=str(demo / "holdout" / "holdout-audit.jsonl"),
            base=str(demo / "models" / "base"),
            progress=progress,
        )
    text = (
        "# Probes on the demo's NPO model\n\n"
        "Made by `python -m benchmarks.probe_demo --demo DIR`, which runs `unlearn demo`, and then the probes that\n"
        f"`verify-unlearning probe` runs by default. {machine()};\n"
        f"the probes took {time.process_time() - began:.0f} processor seconds. {found.forget} forget records, four references.\n"
        "Mean loss on the forget set in nats per token; the residual fraction has a 90 % interval. *Beyond the margin*: the test\n"
        "of the set, or that of single records, accuses.\n"
    )
    write_text(PAGE, f"{text}\n```\n{found.table()}\n```\n")
    print(found.table())


if __name__ == "__main__":
    main()
