"""What a comparison with a tolerance sees, and what it can hide: noise, power and distance of every segment, and two forgeries.

    python benchmarks/reexecution_tolerance.py [--epochs 6] [--output results.md]

On the demo's people and model: a training and a deletion by rollback, computed in another order of summation than here, or with two
threads and checked with one. Then what an operator can do below the limit of a segment's end:

    moved:     the final weights are moved by the limit where the loss of the forget record falls most steeply
    imitated:  the microbatch with the forget record is passed off as the one, of many drawn from the retained records, whose
               result lies nearest
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from unlearn import TrainingOptions, finetune, forget
from unlearn.experiments.demo import BASE_OPTIONS, write_data
from unlearn.methods.rollback import Rollback
from verify.data.encoding import collate
from verify.data.identity import KEY_VARIABLE, RecordKey
from verify.data.sources import load_records
from verify.models.loading import load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.reexecution.execution import Course
from verify.reexecution.plans import Trust, plan_log
from verify.reexecution.records import Shown
from verify.reexecution.tolerance import WEIGHTS, Bench, Trial, deviations, distances, places_of
from verify.schema.tolerance import Deviation
from verify.training.reordering import Reordered

PEOPLE, DRAWN = 20, 300
"""People trained on, of four records each; microbatches drawn for an imitation."""
OPTIONS = TrainingOptions(learning_rate=3e-3, batch_size=8, scheduler="linear", warmup_ratio=0.1, seed=1)
KINDS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "LoRA, dropout": {"lora": True, "lora_dropout": 0.1},
    "LoRA, bfloat16": {"lora": True, "bf16": True},
    "all weights, Sophia": {"optimizer": "sophia", "learning_rate": 3e-4},
}


def world(top: Path, steps: int) -> tuple[Path, list[dict[str, Any]]]:
    """Make the demo's base model, trained for some steps, and the records of some people."""
    write_data(top, 0)
    options = dataclasses.replace(BASE_OPTIONS, max_steps=steps, seed=0)
    base = finetune(
        str(top / "config.json"),
        str(top / "data" / "base.jsonl"),
        output_dir=top / "base",
        tokenizer=str(top / "tokenizer"),
        options=options,
    )
    rows = [json.loads(line) for line in (top / "data" / "retain.jsonl").read_text().splitlines()]
    return base.model_dir, rows[: 4 * PEOPLE]


def course_of(top: Path, base: Path, rows: list[dict[str, Any]], options: TrainingOptions, threads: int) -> Course:
    """Train and delete the last record elsewhere: in another order of summation, or with a number of threads."""
    before_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    with Reordered(77) if threads == before_threads else nullcontext():
        before = finetune(base, rows, output_dir=top / "before", options=options).model_dir
        forget(before, Rollback(), forget_set=rows[-1:], data=rows, base=base, output_dir=top / "after")
    torch.set_num_threads(before_threads)
    records = load_records(rows)
    shown = Shown(records[:-1], records[-1:], RecordKey.load())
    plan = plan_log(top / "after", before, load_model(base), shown, None, lambda: load_model(base).model, Trust())
    assert not plan.findings, plan.findings
    (course,) = plan.courses
    boundaries = tuple(dataclasses.replace(one, threads=before_threads) for one in course.log.boundaries)
    return dataclasses.replace(course, log=dataclasses.replace(course.log, boundaries=boundaries))


def row(name: str, course: Course) -> str:
    """Measure all segments of a deletion and return its line of the table."""
    began, found = time.monotonic(), [deviations(course, start, end) for start, end in course.segments()]
    parts: list[Deviation] = [one for parts in found for one in parts]
    measured = [one for one in parts if one.noise]
    return (
        f"| {name} | {len(found)} | {max(one.distance / one.noise for one in measured):.2f} "
        f"| {max(one.clean / one.noise for one in measured):.2f} | {min(one.power / one.noise for one in measured):.0f} "
        f"| {min(one.power / one.noise for one in measured if one.part == WEIGHTS):.0f} "
        f"| {sum(one.testable for one in parts)} of {len(parts)} "
        f"| {sum(max(one.tolerated for one in parts) for parts in found):.3f} | {time.monotonic() - began:.0f} |"
    )


def loss_of(model: Any, course: Course, window: Any) -> torch.Tensor:
    """Return the mean loss of a window's scored tokens, in nats."""
    batch = collate([window], course.tokenizer.pad_token_id)
    return -scored_log_probabilities(model.eval(), batch)[0].mean()


def forgeries(course: Course) -> list[str]:
    """Compare what hides below the limit with what the record does in one microbatch, at the end of the last segment."""
    start, end = course.segments()[-1]
    deviation = next(one for one in deviations(course, start, end) if one.part == WEIGHTS)
    number, window = places_of(course, start, end)[0]
    bench = Bench(course)
    clean, tainted = bench.executed(start, end, Trial()), bench.executed(start, end, Trial(place=(number, window)))
    model = course.start_model()

    def put(weights: dict[str, torch.Tensor]) -> float:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name])
        return float(loss_of(model, course, window))

    before, after = put(clean[WEIGHTS]), put(tainted[WEIGHTS])
    put(clean[WEIGHTS])
    loss_of(model, course, window).backward()
    slopes = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    length = sum(float(slope.double().square().sum()) for slope in slopes.values()) ** 0.5
    moved = put({name: values - slopes[name] * (deviation.limit / length) for name, values in clean[WEIGHTS].items()})
    nearest = min(distances(state, tainted)[WEIGHTS] for state in _imitations(bench, start, end, number))
    return [
        f"- the record in one microbatch lowers its own loss by {before - after:.2g} nats; the largest move that passes, by "
        f"{before - moved:.2g} nats ({(before - moved) / (before - after):.2%} of it), at {deviation.limit / deviation.power:.2%} "
        "of the distance;",
        f"- of {DRAWN} microbatches of retained records, the best imitation ends {nearest / deviation.power:.2f} of the power and "
        f"{nearest / deviation.limit:.0f} limits away from the state with the record.",
    ]


def _imitations(bench: Bench, start: int, end: int, number: int) -> Any:
    """Yield the states that a segment ends in with a drawn record beside those of one microbatch."""
    drawn = torch.Generator().manual_seed(0)
    indices: Sequence[int] = torch.randint(0, len(bench.course.log.records), (DRAWN,), generator=drawn).tolist()
    for index in indices:
        yield bench.executed(start, end, Trial(place=(number, bench.course.windows[index])))


def main() -> None:
    """Measure every kind of training against both other machines, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--base-steps", type=int, default=200)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| trained and deleted | segments | d / a, largest | control / a, largest | b / a, smallest | b / a of weights "
        "| testable parts | can hide | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        os.environ.setdefault(KEY_VARIABLE, str(top / "record.key"))
        base, rows = world(top, given.base_steps)
        hidden: list[str] = []
        for name, changed in KINDS.items():
            options = dataclasses.replace(OPTIONS, epochs=given.epochs, save_steps=15, **changed)
            for elsewhere, threads in (("another order", 1), ("two threads", 2)):
                course = course_of(top / f"{name} {elsewhere}", base, rows, options, threads)
                lines.append(row(f"{name}; {elsewhere}", course))
                print(lines[-1], flush=True)
                if threads == 1:
                    hidden += [f"\n{name}:\n", *forgeries(course)]
                    print(*hidden[-2:], sep="\n", flush=True)
    text = "\n".join([*lines, *hidden])
    print(text)
    if given.output:
        given.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
