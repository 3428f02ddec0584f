"""Forgeries by training: on other records, from another base or in another order than the log says.

The files are consistent with each other; only taking the steps again shows that they do not lead where the log says.
"""

import dataclasses
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tampering import edit_log, microbatches, reseal

import unlearn.methods.rollback
from benchmarks.reexecution.edits import Given, Lines, end_fits, starts
from benchmarks.reexecution.worlds import Row, World, base_of, by_name, commit, threads, trained
from unlearn import finetune, forget
from unlearn.methods.rollback import Rollback
from verify.data.encoding import Encoded, Encoder, collate
from verify.data.sources import load_records
from verify.models.loading import LoadedModel, load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.provenance.training_log import LOG_NAME, TrainingLog


def encoded(row: Row, loaded: LoadedModel) -> Encoded:
    """Encode one record that fits into the context."""
    return Encoder(loaded.tokenizer, loaded.context_length).encode(load_records([row]))[0]


@contextmanager
def trained_as(name: str, other: Row) -> Iterator[None]:
    """Let a rollback train on another record's text wherever the log names a record."""
    real = unlearn.methods.rollback.windows_of_log

    def windows(log: TrainingLog, records: Any, loaded: LoadedModel, *rest: Any) -> dict[int, Encoded]:
        found = real(log, records, loaded, *rest)
        return {index: encoded(other, loaded) if log.records[index] == name else window for index, window in found.items()}

    with mock.patch("unlearn.methods.rollback.windows_of_log", windows):
        yield


def _late(world: World) -> list[str]:
    """Return retained records, by their hashes, that stand in the steps that a deletion takes again."""
    log, first = world.log, min(starts(world), default=0)
    return [log.records[index] for entry in log.microbatches if entry.step > first for index in entry.records]


def _deleted_as(world: World, folder: Path, name: str, other: Row) -> Given:
    """Roll back, training on another text in place of a retained record."""
    with trained_as(name, other), threads(world.setting.threads):
        after = folder / "lied"
        forget(world.before, Rollback(), forget_set=world.gone, data=world.rows, base=world.base, output_dir=after)
    return {"model": after}


def forget_record_renamed(world: World, folder: Path, draw: random.Random) -> Given:
    """The forget record trained on under a retained record's hash."""
    return _deleted_as(world, folder, draw.choice(_late(world)), world.gone[0])


def altered_record(world: World, folder: Path, draw: random.Random) -> Given:
    """A retained record trained on with one altered character."""
    name = draw.choice(_late(world))
    row = by_name(world.rows)[name]
    text = row["completion"]
    place = draw.randrange(len(text))
    return _deleted_as(world, folder, name, {**row, "completion": f"{text[:place]}#{text[place + 1 :]}"})


def imitated_gradient(world: World, folder: Path, _: random.Random) -> Given:
    """The forget record trained on under the hash of the retained record whose gradient is most like its own."""
    rows, late = by_name(world.rows), sorted(set(_late(world)))
    wanted = gradient(world, world.gone[0])
    likeness = {name: float(torch.cosine_similarity(wanted, gradient(world, rows[name]), dim=0)) for name in late}
    return _deleted_as(world, folder, max(late, key=likeness.__getitem__), world.gone[0])


def gradient(world: World, row: Row) -> torch.Tensor:
    """Compute the gradient of a record's loss at the base, over all weights [P]."""
    loaded = load_model(world.base)
    batch = collate([encoded(row, loaded)], loaded.tokenizer.pad_token_id)
    (-scored_log_probabilities(loaded.model, batch)[0].mean()).backward()
    gradients = (parameter.grad for parameter in loaded.model.parameters() if parameter.grad is not None)
    return torch.cat([values.reshape(-1) for values in gradients])


def trained_on(world: World, _: Path, draw: random.Random) -> Given:
    """Training that goes on after the log's end, on the forget record; in half of the cases the log's last line is made to fit."""
    loaded = load_model(world.after)
    batch = collate([encoded(world.gone[0], loaded)], loaded.tokenizer.pad_token_id)
    parameters = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=draw.choice((1e-6, 1e-4, 1e-3)))
    for _step in range(draw.randint(1, 3)):
        (-scored_log_probabilities(loaded.model, batch)[0].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    loaded.model.save_pretrained(world.after)
    reseal(world.after)
    if draw.random() < 0.5:
        end_fits(world)
    return {}


def near_duplicate(world: World, folder: Path, draw: random.Random) -> Given:
    """A record that stays differs from the forget record in its last word."""
    words = " ".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(16))
    pair = [{"example_id": name, "prompt": "Say", "completion": f"{words} {name}"} for name in ("y", "z")]
    rows = [*world.rows, *pair]
    with threads(world.setting.threads):
        before = trained(world.setting, world.base, rows, folder / "near")
        commitment = commit(before, folder / "near.json")
        forget(before, Rollback(), forget_set=pair[1:], data=rows, base=world.base, output_dir=folder / "after-near")
    return {
        "model": folder / "after-near",
        "data": rows,
        "forget_set": pair[1:],
        "log": before,
        "commitment": commitment,
    }


def another_base(world: World, folder: Path, _: random.Random) -> Given:
    """A fresh training that starts from the original model, or under an adapter from another base, and says it was the base."""
    start = base_of(world.base.parent, world.setting.attention_dropout, seed=1) if world.setting.options.lora else world.before
    rest = [row for row in world.rows if row not in world.gone]
    after, digest = folder / "other-base", load_model(world.base).digest
    with threads(world.setting.threads):
        finetune(start, rest, output_dir=after, options=world.setting.options)
    edit_log(after, lambda entries: entries[0].update(start_weights=digest))
    reseal(after)
    return {"model": after, "log": None, "commitment": None}


def another_deletion(world: World, folder: Path, draw: random.Random) -> Given:
    """The deletion of somebody else's record."""
    other = draw.choice([row for row in world.rows if row not in world.gone])
    with threads(world.setting.threads):
        forget(world.before, Rollback(), forget_set=[other], data=world.rows, base=world.base, output_dir=folder / "other")
    return {"model": folder / "other"}


def other_training(world: World, folder: Path, draw: random.Random) -> Given:
    """The log of a training with another seed, made afterwards, in place of the committed one."""
    options = dataclasses.replace(world.setting.options, seed=draw.randrange(10**6))
    with threads(world.setting.threads):
        again = trained(dataclasses.replace(world.setting, options=options), world.base, world.rows, folder / "again")
        forget(again, Rollback(), forget_set=world.gone, data=world.rows, base=world.base, output_dir=folder / "after-again")
    return {"model": folder / "after-again", "log": again}


def seen_last(world: World, folder: Path) -> tuple[Path, Path]:
    """Forge a log that says the forget record was seen in the last microbatch only, and roll back from it.

    Returns:
        the forged training and its deletion: one step taken again, from a state that knows the record.
    """
    assert world.before is not None
    forged, (gone,) = folder / "forged", world.gone
    shutil.copytree(world.before, forged)
    name = next(name for name, row in by_name(world.rows).items() if row == gone)

    def change(entries: Lines) -> None:
        index, last = entries[0]["records"].index(name), microbatches(entries)[-1]
        other = last["records"][0]
        for entry in microbatches(entries):
            entry["records"] = [{index: other, other: index}.get(one, one) for one in entry["records"]]

    edit_log(forged, change)
    reseal(forged)
    with threads(world.setting.threads):
        forget(forged, Rollback(), forget_set=[gone], data=world.rows, base=world.base, output_dir=folder / "seen-last")
    return forged, folder / "seen-last"


def invented_afterwards(world: World, folder: Path, _: random.Random) -> Given:
    """A schedule invented afterwards, without a commitment."""
    forged, after = seen_last(world, folder)
    return {"model": after, "log": forged, "commitment": None}


def committed_afterwards(world: World, folder: Path, draw: random.Random) -> Given:
    """A schedule invented afterwards, with a commitment that is younger than the request."""
    forged, after = seen_last(world, folder)
    requested = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    commitment = commit(forged, folder / "younger.json", timedelta(days=draw.randrange(3)))
    return {"model": after, "log": forged, "commitment": commitment, "requested": requested}


def committed_before(world: World, folder: Path, _: random.Random) -> Given:
    """The same schedule, committed to before anybody asked: every state but the last is that of another training."""
    forged, after = seen_last(world, folder)
    requested = datetime.now(UTC).isoformat()
    return {
        "model": after,
        "log": forged,
        "commitment": commit(forged, folder / "older.json", timedelta(days=9)),
        "requested": requested,
    }


def renamed_from_the_start(world: World, folder: Path, draw: random.Random, epochs: int | None = None) -> tuple[Path, str]:
    """Train afresh on the forget record under the hash of a retained one.

    Returns:
        folder of the model, and the hash.
    """
    names = by_name(world.rows)
    name = draw.choice([name for name, row in names.items() if row not in world.gone])
    rest = [world.gone[0] if row == names[name] else row for row in world.rows if row not in world.gone]
    options = dataclasses.replace(world.setting.options, epochs=epochs or draw.choice((1, 2)))
    after, hidden = folder / "renamed", next(other for other, row in names.items() if row == world.gone[0])
    with threads(world.setting.threads):
        finetune(world.base, rest, output_dir=after, options=options)

    def change(entries: Lines) -> None:
        entries[0]["records"] = [name if one == hidden else one for one in entries[0]["records"]]

    edit_log(after, change)
    reseal(after)
    return after, name


def retrained_on_it(world: World, folder: Path, draw: random.Random) -> Given:
    """A fresh training on the forget record, under a retained record's hash."""
    after, _ = renamed_from_the_start(world, folder, draw)
    return {"model": after, "log": None, "commitment": None}


def false_segments(after: Path, name: str) -> set[int]:
    """Return the steps in which a record stands by the log, with a state after every step."""
    log = TrainingLog.read(after / LOG_NAME)
    return {entry.step for entry in log.microbatches for index in entry.records if log.records[index] == name}


def operators_nonce(world: World, folder: Path, draw: random.Random) -> Given:
    """The same with a nonce of the operator's that draws no false segment; all segments are executed all the same."""
    after, _ = renamed_from_the_start(world, folder, draw)
    return {"model": after, "log": None, "commitment": None, "nonce": "of the operator"}
