"""Run of a contest: all models, then all settings, verdicts and probes in one pool of processes, the most important first.

Every method is tuned on half A of the forget set and judged on half B; where fewer than four subjects are known, the halves are
split by record. Every run removes the whole forget set. The never-trained records are split by subject: half for the methods, half
for the verdict. What is done is not done again; a run ends by itself at its deadline, and the same command goes on.
"""

import gc
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.contest.data import LLM_OPTIONS, fine_tuning, write_world
from benchmarks.contest.deadline import Deadline
from benchmarks.contest.judge import judged, score_model
from benchmarks.contest.place import Place
from benchmarks.contest.probing import REFERENCES, probe_model, probed
from benchmarks.contest.settings import BY_TABLE, MAIN, RETRAIN, UNTOUCHED, UNTUNED, entries_of, method_of, settings_of
from benchmarks.contest.trials import ORIGINAL, SHARDED, chosen, cost, is_trained, train_model, try_setting
from verify.data.identity import RecordKey
from verify.errors import InputError
from verify.io.files import read_json, write_json, write_text
from verify.io.jobs import Job, run_jobs

Progress = Callable[[str, float], None]
SETTINGS = "contest.json"
NO_TIME = "no time"
FIXED = {UNTOUCHED: ORIGINAL, RETRAIN: RETRAIN}
"""Folders of the entries without a method."""
AHEAD = 8
"""Jobs of entries that begin before the models that every audit compares with are scored: those wait for one another."""


def run_contest(
    places: Sequence[Place],
    shared: Path,
    methods: list[str],
    *,
    workers: int = 1,
    seconds: float | None = None,
    progress: Progress = lambda *_: None,
) -> None:
    """Run what is missing.

    Args:
        places: one for each seed, of the same world.
        shared: folder of the public data sets.
        methods: names.
        workers: processes side by side, on one device.
        seconds: nothing begins that would end later than this; None for no end.
        progress: called with what was done and the share of the stage.

    Raises:
        InputError: data or the base model are missing, a folder holds a contest with other settings, or `sisa` is not to work on
            adapters.
    """
    if "sisa" in methods and any(not fine_tuning(place.world).lora for place in places):
        raise InputError("sisa retrains one of several adapters. Leave it out, or give --world smollm2.")
    at = None if seconds is None else time.time() + seconds
    RecordKey.load()  # made here if there is none, and not by several processes at once
    for place in places:
        _open(place, shared)
    deadline = Deadline(at, places[0].folder.parent / "seconds")
    for stage in (_bases, _models, _entries):
        jobs = stage(places, methods, deadline)
        for done, (job, failed) in enumerate(run_jobs(jobs, workers), 1):
            progress(job.label if failed is None else f"{job.label}: {failed}", done / len(jobs))


def entries(place: Place, methods: list[str]) -> list[dict[str, Any]]:
    """Return the results of a seed as far as they are there, in the order of the table."""
    return [found for name in entries_of(place.world, methods) if (found := _read(place, name)) is not None]


def _read(place: Place, entry: str) -> dict[str, Any] | None:
    """Return the result of an entry, with its probes once there are any; None where it was not judged yet."""
    if not place.result(entry).exists():
        return None
    compared = place.compared(entry)
    return {**read_json(place.result(entry)), **(read_json(compared) if compared.exists() else {})}


def _open(place: Place, shared: Path) -> None:
    """Write the data of a seed, or resume in its folder."""
    about = {**asdict(place), "folder": None}
    path = place.folder / SETTINGS
    if not path.exists():
        write_world(place.world, shared, place.seed, place.folder)
        write_json(path, about)
    if read_json(path) != about:
        raise InputError(f"{place.folder} holds a contest with other settings. Give the same --references, or another --work.")


def attempt(run: Callable[..., str | None], place: Place, label: str, **arguments: Any) -> str | None:
    """Run a job; an error does not end the contest: its traceback is written to the folder `failures`, and the job is missing.

    Returns:
        None, or why the job was not done.
    """
    try:
        return run(place=place, **arguments)
    except Exception as error:  # noqa: BLE001 - one method that fails must not cost the hours of the others
        write_text(place.folder / "failures" / f"{label}.txt", traceback.format_exc(), mode=0o600)
        return f"failed ({type(error).__name__})"
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the other processes need the memory


def in_time(place: Place, deadline: Deadline, kind: str, function: Callable[..., None], **arguments: Any) -> str | None:
    """Run a function if there is time for its kind; return what `attempt` returns."""
    if not deadline.allows(kind):
        return NO_TIME
    with deadline.measured(kind):
        function(place, **arguments)
    return None


def try_and_advance(place: Place, deadline: Deadline, entry: str, number: int) -> str | None:
    """Try a setting, and judge its entry if it was the last one."""
    setting = settings_of(entry, place.world)[number]
    kind = f"trying {method_of(entry)}"
    late = in_time(place, deadline, kind, try_setting, entry=entry, number=number, setting=setting)
    return late or advance(place, deadline, entry, last=is_important(entry))


def is_important(entry: str) -> bool:
    """Return whether an entry is probed as soon as it is judged; the others are probed when all are judged."""
    return entry in FIXED or entry in UNTUNED or entry in (*MAIN, BY_TABLE)


def advance(place: Place, deadline: Deadline, entry: str, *, last: bool, wait: bool = False) -> str | None:
    """Judge an entry whose settings were all tried, unless that is done; models go that are not needed any more.

    Args:
        place, deadline, entry: which.
        last: whether to probe it as well.
        wait: whether to wait for another process that is judging it.
    """
    files = [place.tried_result(entry, number) for number in range(len(settings_of(entry, place.world)))]
    if not all(path.exists() for path in files):
        return None
    with place.locked(f"entry-{entry}", wait=wait) as mine:
        if not mine:  # two processes were done with its last settings at the same time
            return None
        tried = [read_json(path) for path in files]
        number = chosen(tried) if tried else None
        if tried and number is None:
            word = "diverged" if any("diverged" in found for found in tried) else "refused"
            write_json(place.result(entry), {"method": entry, "setting": None, "tried": tried, "verdict": word})
            write_json(place.compared(entry), {})
        else:
            target = place.tried(entry, number) if number is not None else place.model(FIXED[entry])
            if late := _judge(place, deadline, entry, target, tried, number):
                return late
            _remove_tried(place, entry, [other for other in range(len(tried)) if other != number])
            if not last:
                return None
            if late := _compare(place, deadline, entry, target):
                return late
        _remove_tried(place, entry, range(len(tried)))
    return None


def _remove_tried(place: Place, entry: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        shutil.rmtree(place.tried(entry, number), ignore_errors=True)


def _judge(
    place: Place, deadline: Deadline, entry: str, target: Path, tried: list[dict[str, Any]], number: int | None
) -> str | None:
    if place.result(entry).exists():
        return None
    best = {} if number is None else tried[number]

    def write(place: Place) -> None:
        about = {"method": entry, "setting": best.get("setting"), "tried": tried, "share_of_retraining": cost(entry, best)}
        write_json(place.result(entry), {**about, **judged(place, entry, target)})

    return in_time(place, deadline, "judging", write)


def _compare(place: Place, deadline: Deadline, entry: str, target: Path) -> str | None:
    if place.compared(entry).exists():
        return None

    def write(place: Place) -> None:
        write_json(place.compared(entry), probed(place, entry, target))

    return in_time(place, deadline, "probing", write)


def _job(run: Callable[..., str | None], place: Place, label: str, **arguments: Any) -> Job:
    return Job(f"seed {place.seed}: {label}", 1.0, attempt, {"run": run, "place": place, "label": label, **arguments})


def _step(run: Callable[..., None], kind: str, place: Place, deadline: Deadline, **arguments: Any) -> Job:
    """Return a job of one function that runs if there is time for its kind."""
    label = f"{kind} {arguments['name']}"
    return _job(in_time, place, label, deadline=deadline, kind=kind, function=run, **arguments)


def _bases(places: Sequence[Place], _: list[str], deadline: Deadline) -> list[Job]:
    return [
        _step(train_model, "training", place, deadline, name="base")
        for place in places
        if place.world not in LLM_OPTIONS and not is_trained(place, "base")
    ]


def _wanted(place: Place, methods: list[str]) -> list[str]:
    """Return the models that stay, the slowest to train first."""
    return [*([SHARDED] if "sisa" in methods else []), ORIGINAL, RETRAIN, *place.reference_names()]


def _models(places: Sequence[Place], methods: list[str], deadline: Deadline) -> list[Job]:
    return [
        _step(train_model, "training", place, deadline, name=name)
        for place in places
        for name in _wanted(place, methods)
        if not is_trained(place, name)
    ]


def _entries(places: Sequence[Place], methods: list[str], deadline: Deadline) -> list[Job]:
    """Return the jobs of all seeds whose models are there.

    What every verdict waits for comes early, but not side by side. The less important entries are probed when all are judged.
    """
    found, late = list[Job](), list[Job]()
    for place in places:
        if not all(is_trained(place, name) for name in _wanted(place, methods)):
            continue
        compared = [ORIGINAL, *place.reference_names()]
        shared = [_step(score_model, "scoring", place, deadline, name=name) for name in compared]
        shared += [
            _step(probe_model, "probing", place, deadline, name=name, folder=place.model(name))
            for name in compared[: REFERENCES + 1]
        ]
        fixed, tuned = list[Job](), list[Job]()
        for entry in entries_of(place.world, methods):
            (fixed if entry in FIXED else tuned).extend(_of_entry(place, entry, deadline))
            if not is_important(entry) and not place.compared(entry).exists():
                late.append(_job(advance, place, f"{entry}, probes", deadline=deadline, entry=entry, last=True, wait=True))
        if fixed or tuned:
            found += [shared[0], *tuned[:AHEAD], *shared[1:], *fixed, *tuned[AHEAD:]]
    return found + late


def _of_entry(place: Place, entry: str, deadline: Deadline) -> list[Job]:
    """Return the jobs of an entry: its missing settings, the last of which judges it; or its verdict and probes alone."""
    numbers = range(len(settings_of(entry, place.world)))
    missing = [number for number in numbers if not place.tried_result(entry, number).exists()]
    if missing:
        return [
            _job(try_and_advance, place, f"{entry} {number}", deadline=deadline, entry=entry, number=number) for number in missing
        ]
    done = place.compared(entry) if is_important(entry) else place.result(entry)
    return [] if done.exists() else [_job(advance, place, entry, deadline=deadline, entry=entry, last=is_important(entry))]
