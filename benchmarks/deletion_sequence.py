"""Ten deletion requests in sequence: exact ones with their proofs, approximate ones with their audits; and how few people suffice.

    python -m benchmarks.deletion_sequence --demo DEMO --output DIR

The world is that of `unlearn demo`, which is run first where DEMO does not exist; ten of its twenty people to be forgotten ask one
after another. `sisa` deletes each from a model trained in shards and is executed again, on a commitment to the result before it; at
the end every adapter is compared with a training without the ten. `retrain` deletes the first, and all ten, from the demo's
original. `npo` goes on from its own last result and is audited after some requests.

How few people suffice: the demo's five models without the twenty are honest deletions of any of them. Each is audited, against the
other four, on sets of one to twenty people.

Writes `benchmarks/results/deletion_sequence.md`; an interrupted run resumes.
"""

import argparse
import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.deletion_sequence_page import page
from benchmarks.demo_world import demo_world, references_of
from unlearn.experiments.demo import FINETUNE_OPTIONS, METHODS
from unlearn.forgetting import forget
from unlearn.methods.npo import NPO
from unlearn.methods.retrain import Retrain
from unlearn.methods.sisa import SISA
from unlearn.training.shards import ShardPlan, finetune_shards
from verify import Evidence, Settings, audit
from verify.cli.console import progress_bar
from verify.io.files import MANIFEST, read_json, write_json, write_text
from verify.io.libraries import quiet_libraries
from verify.models.ensembles import WEIGHTS
from verify.provenance.commitment import TrainingCommitment
from verify.reexecution.reexecute import reexecute

PAGE = Path(__file__).parent / "results" / "deletion_sequence.md"
REQUESTS = 10
PLAN = ShardPlan(
    shards=4, slices=2, combine="average", options=dataclasses.replace(FINETUNE_OPTIONS, lora=True, lora_rank=16, lora_alpha=32)
)
RETRAINED = (1, REQUESTS)
"""Requests after which everybody deleted so far is also deleted by a retraining."""
AUDITED = (1, 2, 4, 8, 10)
"""Requests after which the model of `npo` is audited."""
SETS = {1: 3, 2: 2, 4: 2, 6: 1, 8: 2, 10: 1, 20: 1}
"""Number of people in a set -> number of disjoint sets of that size."""

Rows = list[dict[str, Any]]
"""Records as they stand in a file."""
Step = Callable[[], dict[str, Any]]
"""One step of the run; what it returns is kept in a file."""


@dataclass(frozen=True)
class World:
    """The demo's models and records, and the folder of this run.

    Attributes:
        demo: folder of the demo.
        output: folder of this run.
        people: records of each person to be forgotten, in order of the requests.
        retain: records of everybody else.
    """

    demo: Path
    output: Path
    people: list[Rows]
    retain: Rows

    @property
    def base(self) -> Path:
        """Model that every training starts from."""
        return self.demo / "models" / "base"

    @property
    def original(self) -> Path:
        """Model that was trained on everybody."""
        return self.demo / "models" / "original"

    def model(self, name: str) -> Path:
        """Return the folder of a model that this run makes."""
        return self.output / "models" / name

    def emptied(self, name: str) -> Path:
        """Return the same folder without what an interrupted step left in it."""
        shutil.rmtree(self.model(name), ignore_errors=True)
        return self.model(name)

    def left(self, gone: int) -> Rows:
        """Return the training records after the first `gone` requests."""
        return [*self.retain, *(row for rows in self.people[gone:] for row in rows)]

    def first(self, count: int) -> Rows:
        """Return the records of the first people who asked."""
        return [row for rows in self.people[:count] for row in rows]


def world_of(demo: Path, output: Path) -> World:
    """Read the demo's records, grouped by person."""
    read = {
        role: [json.loads(line) for line in (demo / "data" / f"{role}.jsonl").read_text().splitlines()]
        for role in ("forget", "retain")
    }
    subjects = dict.fromkeys(row["subject_id"] for row in read["forget"])
    return World(demo, output, [[row for row in read["forget"] if row["subject_id"] == one] for one in subjects], read["retain"])


def once(path: Path, run: Step) -> dict[str, Any]:
    """Return what a finished step wrote; run it first if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, run())
    return dict(read_json(path))


def sharded(world: World, name: str, rows: Rows) -> Path:
    """Train in shards, unless that is done, and return the model's folder."""
    folder = world.model(name)
    if not (folder / MANIFEST).exists():
        finetune_shards(world.base, rows, output_dir=folder, plan=PLAN)
    return folder


def by_shards(world: World, number: int) -> dict[str, Any]:
    """Answer a request by `sisa`, and execute the deletion again; it is committed to before, as the request's date is later."""
    before = sharded(world, "sisa-0", world.left(0)) if number == 1 else world.model(f"sisa-{number - 1}")
    commitment = world.output / "commitments" / f"{before.name}.json"
    commitment.parent.mkdir(exist_ok=True)
    if not commitment.exists():
        TrainingCommitment.of(before).save(commitment)
    return deleted(world, before, SISA(), f"sisa-{number}", number - 1, world.people[number - 1], log=before, commitment=commitment)


def deleted(world: World, before: Path, method: Any, name: str, gone: int, asked: Rows, **committed: Path) -> dict[str, Any]:
    """Delete records exactly and execute the deletion again; return processor seconds, shares of a retraining and the outcome."""
    folder, data = world.emptied(name), world.left(gone)
    about: dict[str, Any] = {"data": data, "forget_set": asked}
    requested = datetime.now(UTC).isoformat(timespec="seconds") if committed else None
    times = [time.process_time()]
    done = forget(before, method, base=world.base, output_dir=folder, **about)
    times.append(time.process_time())
    proof = reexecute(folder, world.base, requested=requested, **about, **committed)
    times.append(time.process_time())
    return {
        "deletion": times[1] - times[0],
        "proof": times[2] - times[1],
        "share": float(done.facts.get("share_of_retraining_tokens", 1.0)),
        "outcome": proof.phrase,
    }


def by_npo(world: World, number: int) -> dict[str, Any]:
    """Answer a request by `npo`, from its last result."""
    before = world.original if number == 1 else world.model(f"npo-{number - 1}")
    parameters, options = METHODS["npo"]
    began = time.process_time()
    forget(
        before,
        NPO(**parameters),
        forget_set=world.people[number - 1],
        retain_set=world.left(number),
        output_dir=world.emptied(f"npo-{number}"),
        options=dataclasses.replace(options, seed=100),
    )
    return {"deletion": time.process_time() - began}


def audited(world: World, target: Path, references: list[Path], rows: Rows, name: str) -> dict[str, Any]:
    """Audit a model on these records in every way of asking, and return what the page shows."""
    folder = world.output / "audits" / name
    if not (folder / MANIFEST).exists():
        audit(
            target,
            world.original,
            references=references,
            forget_set=rows,
            retain_set=world.retain,
            holdout_set=str(world.demo / "holdout" / "holdout-audit.jsonl"),
            rewordings=reworded(world, rows),
            base=world.base,
            output_dir=folder,
            settings=Settings(attacks=("quick",)),
            cache_dir=world.output / "cache",
        )
    evidence = Evidence.load(folder / "evidence.json")
    utility = next(entry.ratio for entry in evidence.utility if entry.model == "target")
    return {
        "verdict": evidence.verdict,
        "phrase": evidence.verdict_phrase,
        "residual": None if evidence.residual is None else evidence.residual.short(),
        "utility": utility.short(),
        "asked": len(evidence.asked),
    }


def reworded(world: World, rows: Rows) -> Rows:
    """Return the rewordings of these records and of the auditor's controls."""
    texts = [(world.demo / path).read_text().splitlines() for path in ("data/rewordings.jsonl", "holdout/holdout-audit.jsonl")]
    wanted = {row["example_id"] for row in [*rows, *map(json.loads, texts[1])]}
    return [row for row in map(json.loads, texts[0]) if row["record"] in wanted]


def honest_audits(world: World, people: int, number: int) -> dict[str, Any]:
    """Audit each of the five models without the twenty on one set of people, against the other four."""
    models = [*references_of(world.demo), world.demo / "models" / "retrain"]
    rows = [row for one in world.people[number * people : (number + 1) * people] for row in one]
    found = [
        audited(world, model, [other for other in models if other != model], rows, f"honest-{people}-{number}-{model.name}")
        for model in models
    ]
    return {"audits": found}


def steps_of(world: World) -> dict[str, Step]:
    """Return the steps of the run by name, in order."""
    numbers = range(1, REQUESTS + 1)
    retrainings = {
        f"retrain-{number}": partial(deleted, world, world.original, Retrain(), f"retrain-{number}", 0, world.first(number))
        for number in RETRAINED
    }
    audits = {
        f"npo-audit-{number}": partial(
            audited, world, world.model(f"npo-{number}"), references_of(world.demo), world.first(number), f"npo-{number}"
        )
        for number in AUDITED
    }
    return {
        **{f"sisa-{number}": partial(by_shards, world, number) for number in numbers},
        **{f"npo-{number}": partial(by_npo, world, number) for number in numbers},
        **retrainings,
        **audits,
        **{
            f"honest-{people}-{number}": partial(honest_audits, world, people, number)
            for people in SETS
            for number in range(SETS[people])
        },
    }


def main() -> None:
    """Run everything that is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    world = world_of(demo_world(given.demo), given.output)
    quiet_libraries()
    jobs = steps_of(world)
    with progress_bar("preparing") as progress:
        found = {}
        for index, (name, run) in enumerate(jobs.items()):
            progress(name, index / len(jobs))
            found[name] = once(given.output / "steps" / f"{name}.json", run)
        fresh, last = sharded(world, "sharded-fresh", world.left(REQUESTS)), world.model(f"sisa-{REQUESTS}")
    same = all((last / path.relative_to(fresh)).read_bytes() == path.read_bytes() for path in fresh.rglob(WEIGHTS))
    text = page(found, same, REQUESTS, SETS)
    write_text(PAGE, text)
    print(text)


if __name__ == "__main__":
    main()
