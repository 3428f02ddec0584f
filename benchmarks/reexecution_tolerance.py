"""What a comparison with a tolerance sees, and what it can hide: noise, power and distance of every segment, and three forgeries.

    python benchmarks/reexecution_tolerance.py --work DIR [--epochs 6]

On the demo's people and model: a training and a deletion by rollback, computed in another order of summation than here, or with two
threads and checked with one. Then what an operator can do below the limits:

    moved:     the final weights are moved by the limit where the loss of the forget record falls most steeply
    drifted:   every recorded state is, weights and first moment each by nearly its limit, and training goes on from there
    imitated:  the microbatch with the forget record is passed off as the one, of many drawn from the retained records, whose
               result lies nearest

Writes `benchmarks/results/reexecution_tolerance.md`. Resumable: every row is noted in DIR.
"""

import argparse
import dataclasses
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import verify.training.replay
from unlearn import TrainingOptions, finetune, forget
from unlearn.experiments.demo import BASE_OPTIONS, write_data
from unlearn.methods.rollback import Rollback
from verify.data.encoding import collate
from verify.data.identity import KEY_VARIABLE, RecordKey
from verify.data.sources import load_records
from verify.io.files import MANIFEST, read_json, write_json, write_text
from verify.models.loading import load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.reexecution.course import Course
from verify.reexecution.plans import Trust, plan_log
from verify.reexecution.records import Shown
from verify.reexecution.reexecute import reexecute
from verify.reexecution.tolerance import WEIGHTS, Bench, Trial, deviations, distances, places_of
from verify.schema.tolerance import Deviation
from verify.training.reordering import Reordered
from verify.training.state import StateDigest, state_digest

RESULTS = Path(__file__).parent / "results" / "reexecution_tolerance.md"
PEOPLE, DRAWN = 20, 100
"""People trained on, of four records each; microbatches drawn for an imitation."""
SHARES = (0.9, 0.6)
"""Shares of the limits by which states are moved, the largest that passes: the auditor measures the limits again."""
COLUMNS = (
    "trained and deleted",
    "segments",
    "d / a, largest",
    "control / a, largest",
    "b / a, smallest",
    "b / a of weights",
    "testable parts",
    "can hide",
    "seconds",
)
OPTIONS = TrainingOptions(learning_rate=3e-3, batch_size=8, scheduler="linear", warmup_ratio=0.1, seed=1)
KINDS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "LoRA, dropout": {"lora": True, "lora_dropout": 0.1},
    "LoRA, bfloat16": {"lora": True, "bf16": True},
    "all weights, Sophia": {"optimizer": "sophia", "learning_rate": 3e-4},
}


def world(top: Path, steps: int) -> tuple[Path, list[dict[str, Any]]]:
    """Return the demo's base model, trained for some steps, and the records of some people; made at the first call."""
    if not (top / "base" / "model.safetensors").is_file():
        write_data(top, 0)
        options = dataclasses.replace(BASE_OPTIONS, max_steps=steps, seed=0)
        data, tokenizer = str(top / "data" / "base.jsonl"), str(top / "tokenizer")
        finetune(str(top / "config.json"), data, output_dir=top / "base", tokenizer=tokenizer, options=options)
    rows = [json.loads(line) for line in (top / "data" / "retain.jsonl").read_text().splitlines()]
    return top / "base", rows[: 4 * PEOPLE]


def course_of(top: Path, base: Path, rows: list[dict[str, Any]], options: TrainingOptions, threads: int) -> Course:
    """Train and delete the last record elsewhere, in another order of summation or with a number of threads; made once."""
    before, before_threads = top / "before", torch.get_num_threads()
    if not (top / "after" / MANIFEST).is_file():
        shutil.rmtree(top, ignore_errors=True)
        torch.set_num_threads(threads)
        with Reordered(77) if threads == before_threads else nullcontext():
            finetune(base, rows, output_dir=before, options=options)
            forget(before, Rollback(), forget_set=rows[-1:], data=rows, base=base, output_dir=top / "after")
        torch.set_num_threads(before_threads)
    records = load_records(rows)
    shown = Shown(records[:-1], records[-1:], RecordKey.load())
    plan = plan_log(top / "after", before, load_model(base), shown, None, lambda: load_model(base).model, Trust())
    assert not plan.findings, plan.findings
    (course,) = plan.courses
    boundaries = tuple(dataclasses.replace(one, threads=before_threads) for one in course.log.boundaries)
    return dataclasses.replace(course, log=dataclasses.replace(course.log, boundaries=boundaries))


def measured(name: str, course: Course) -> tuple[str, dict[str, list[dict[str, Any]]]]:
    """Measure all segments of a deletion; return its line of the table, and the distances at the end of each, as JSON."""
    began, found = time.monotonic(), {end: deviations(course, start, end) for start, end in course.segments()}
    parts = [one for parts in found.values() for one in parts]
    noisy, listed = (
        [one for one in parts if one.noise],
        {str(end): [one.model_dump() for one in parts] for end, parts in found.items()},
    )
    if not noisy:
        return f"| {name} | {len(found)} | equal bits | | | | | 0 | {time.monotonic() - began:.0f} |", listed
    line = (
        f"| {name} | {len(found)} | {max(one.distance / one.noise for one in noisy):.2f} "
        f"| {max(one.clean / one.noise for one in noisy):.2f} | {min(one.power / one.noise for one in noisy):.0f} "
        f"| {min(one.power / one.noise for one in noisy if one.part == WEIGHTS):.0f} "
        f"| {sum(one.testable for one in parts)} of {len(parts)} "
        f"| {sum(max(one.tolerated for one in parts) for parts in found.values()):.2g} | {time.monotonic() - began:.0f} |"
    )
    return line, listed


def loss_of(model: Any, course: Course, window: Any) -> torch.Tensor:
    """Return the mean loss of a window's scored tokens, in nats."""
    batch = collate([window], course.tokenizer.pad_token_id)
    return -scored_log_probabilities(model.eval(), batch)[0].mean()


def slopes_of(model: Any, course: Course, window: Any) -> tuple[dict[str, torch.Tensor], float]:
    """Return the gradient of a window's loss by trained weight, and its length."""
    model.zero_grad()
    loss_of(model, course, window).backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found, sum(float(slope.double().square().sum()) for slope in found.values()) ** 0.5


@contextmanager
def drifting(course: Course, found: dict[int, tuple[Deviation, ...]], share: float) -> Iterator[None]:
    """Move every state that a replay records, before its digests are taken, by a share of the limits towards the forget record."""
    limits = [{one.part: share * one.limit for one in found[end]} for _, end in course.segments()]
    (window,) = course.forget

    def moved(model: Any, optimizer: Any) -> StateDigest:
        limit, training = limits.pop(0), model.training
        slopes, length = slopes_of(model, course, window)
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name, slope in slopes.items():
                weights[name].sub_(slope * (limit[WEIGHTS] / length))
                if (moment := optimizer.state.get(weights[name], {}).get("exp_avg")) is not None and "exp_avg" in limit:
                    moment.add_(slope * (limit["exp_avg"] / length))
        model.train(training)
        return state_digest(model, optimizer)

    with mock.patch.object(verify.training.replay, "state_digest", moved):
        yield


def drifted(top: Path, base: Path, rows: list[dict[str, Any]], honest: Course, found: dict[int, tuple[Deviation, ...]]) -> str:
    """Forge a deletion whose every state drifts, hand it in, and say what of the record's memorization it keeps."""
    (window,) = honest.forget

    def loss(folder: Path) -> float:
        return float(loss_of(load_model(folder).model, honest, window).detach())

    before, given = top / "before", {"forget_set": rows[-1:], "data": rows}
    trained, clean = loss(before), loss(top / "after")
    for share in SHARES:
        after = top / f"drifted {share}"
        shutil.rmtree(after, ignore_errors=True)
        with drifting(honest, found, share):
            forget(before, Rollback(), base=base, output_dir=after, **given)
        proof = reexecute(after, base, log=before, tolerance=True, **given)
        if proof.word == "WITHIN_NOISE":
            break
    kept = (clean - loss(after)) / (clean - trained)
    return (
        f"- every state moved by {share:.0%} of its limits: {proof.phrase}, with a stated tolerance of {proof.tolerated:.2g} "
        f"microbatches. The record's loss is {trained:.3f} nats where it was trained on, {clean:.3f} after an honest deletion, and "
        f"{clean - loss(after):.2g} lower after this one: {kept:.3%} of its memorization is kept;"
    )


def forgeries(course: Course, found: dict[int, tuple[Deviation, ...]]) -> list[str]:
    """Compare what hides below the limit with what the record does in one microbatch, at the end of the last segment."""
    start, end = course.segments()[-1]
    deviation = next(one for one in found[end] if one.part == WEIGHTS)
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
    slopes, length = slopes_of(model, course, window)
    moved = put({name: values - slopes[name] * (deviation.limit / length) for name, values in clean[WEIGHTS].items()})
    nearest = min(distances(state, tainted)[WEIGHTS] for state in _imitations(bench, start, end, number))
    return [
        f"- the record in one microbatch lowers its own loss by {before - after:.2g} nats; the largest move of the final weights "
        f"that passes, by {before - moved:.2g} nats ({(before - moved) / (before - after):.2%} of it), at "
        f"{deviation.limit / deviation.power:.2%} of the distance;",
        f"- of {DRAWN} microbatches of retained records, the best imitation ends {nearest / deviation.power:.2f} of the power and "
        f"{nearest / deviation.limit:.0f} limits away from the state with the record.",
    ]


def _imitations(bench: Bench, start: int, end: int, number: int) -> Any:
    """Yield the states that a segment ends in with a drawn record beside those of one microbatch."""
    drawn = torch.Generator().manual_seed(0)
    indices: Sequence[int] = torch.randint(0, len(bench.course.log.records), (DRAWN,), generator=drawn).tolist()
    for index in indices:
        yield bench.executed(start, end, Trial(place=(number, bench.course.windows[index])))


class Notes:
    """What was measured so far, in a file: a benchmark that is ended goes on from there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: dict[str, Any] = read_json(path) if path.is_file() else {}

    def of(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what is noted under a name, made if there is nothing."""
        if name not in self.held:
            self.held[name] = make()
            write_json(self.path, self.held)
            print(f"{name}: {self.held[name]}", flush=True)
        return self.held[name]


def rows_of(top: Path, epochs: float, base_steps: int) -> Iterator[tuple[str, str, list[str]]]:
    """Yield every row: its title, its line of the table, and what was forged there."""
    base, rows = world(top, base_steps)
    notes = Notes(top / "noted.json")
    for name, changed in KINDS.items():
        options = dataclasses.replace(OPTIONS, epochs=epochs, save_steps=15, **changed)
        for elsewhere, threads in (("another order", 1), ("two threads", 2)):
            title = f"{name}; {elsewhere}"
            folder = top / title.replace(" ", "-")
            course = course_of(folder, base, rows, options, threads)
            line, listed = notes.of(title, partial(measured, title, course))
            found = {int(end): tuple(Deviation(**one) for one in parts) for end, parts in listed.items()}
            forged: list[str] = []
            if threads == 1 and all(one.testable for parts in found.values() for one in parts):
                forged = [
                    notes.of(f"{title}; drifted", partial(drifted, folder, base, rows, course, found)),
                    *notes.of(f"{title}; moved, imitated", partial(forgeries, course, found)),
                ]
            yield title, line, forged


def page(rows: Sequence[tuple[str, str, list[str]]], epochs: float) -> str:
    """Write the results page."""
    hidden = [line for title, _, forged in rows if forged for line in (f"{title}:\n", *forged, "")]
    table = "\n".join(line for _, line, _ in rows)
    return f"""# What a tolerance sees and hides

Made by `python benchmarks/reexecution_tolerance.py --work DIR --epochs {epochs:g}`; {platform.machine()},
torch {torch.__version__}. The demo's model, {PEOPLE} people of four records; a training and the deletion of one record by rollback,
computed elsewhere: in another order of summation, or with two threads and checked with one. Distances as in
[the document](../../docs/research/reexecution.md): d of the recorded state, a noise, b one forget record in one microbatch.
"Can hide" is the sum of 4 a / b over the segments.

| {" | ".join(COLUMNS)} |
|{" --- |" * len(COLUMNS)}
{table}

## Forgeries below the limit

By an operator who knows noise and limits as well as the auditor does, where every part is testable.

{chr(10).join(hidden)}"""


def main() -> None:
    """Measure every kind of training against both other machines, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--base-steps", type=int, default=200)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ[KEY_VARIABLE] = str(given.work / "record.key")
    torch.set_num_threads(1)
    write_text(RESULTS, page(list(rows_of(given.work, given.epochs, given.base_steps)), given.epochs))


if __name__ == "__main__":
    main()
