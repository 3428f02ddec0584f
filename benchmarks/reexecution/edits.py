"""Forgeries that edit the files of an honest deletion; each rewrites the manifests that would give it away.

Each takes a world with a copy of the deleted model, a folder of its own and a random generator, and returns what is handed to the
auditor otherwise.
"""

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

from tampering import edit_log, flip, flip_moment, microbatches, reseal, reseal_checkpoint

from benchmarks.reexecution.worlds import World, by_name, commit, trained
from verify.io.files import MANIFEST, file_digest, read_json, write_manifest
from verify.models.ensembles import ENSEMBLE, FILES
from verify.models.loading import load_model
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.reexecution.schedules import first_step_of

Given = dict[str, Any]
Lines = list[dict[str, Any]]


def starts(world: World) -> list[int]:
    """Return the kept states that an execution starts from: the last one before the forget record, and the later ones."""
    assert world.before is not None
    names = {name for name, row in by_name(world.rows).items() if row in world.gone}
    first = first_step_of(TrainingLog.read(world.before / LOG_NAME), names) or 1
    steps = sorted(step for step, _ in world.log.checkpoints)
    clean = [step for step in steps if step < first]
    return [step for step in steps if step >= max(clean, default=0)][:-1]


def _weights(folder: Path) -> Path:
    return next(path for name in ("adapter_model.safetensors", "model.safetensors") if (path := folder / name).is_file())


def checkpoint_bit(world: World, _: Path, draw: random.Random) -> Given:
    """One bit of the weights of a kept state."""
    folder = world.after / f"checkpoint-{draw.choice(starts(world))}"
    flip(_weights(folder), place=draw.randrange(10**6), bit=draw.randrange(23))
    reseal_checkpoint(folder)
    return {}


def optimizer_bit(world: World, _: Path, draw: random.Random) -> Given:
    """One bit of the optimizer's moments of a kept state."""
    folder = world.after / f"checkpoint-{draw.choice(starts(world))}"
    flip_moment(folder, place=draw.randrange(10**6), bit=draw.randrange(23))
    reseal_checkpoint(folder)
    return {}


def weights_bit(world: World, _: Path, draw: random.Random) -> Given:
    """One bit of the served weights; in half of the cases the log's last line is made to fit."""
    flip(_weights(world.after), place=draw.randrange(10**6), bit=draw.randrange(23))
    reseal(world.after)
    if draw.random() < 0.5:
        end_fits(world)
    return {}


def end_fits(world: World) -> None:
    """State the digest of the served weights as that which training ended with."""
    digest = load_model(world.after).digest

    def change(entries: Lines) -> None:
        entries[-1]["final_weights"] = digest

    edit_log(world.after, change)
    reseal(world.after)


def states_swapped(world: World, _: Path, draw: random.Random) -> Given:
    """Two kept states in each other's place."""
    one = draw.choice(starts(world))
    other = draw.choice([step for step, _ in world.log.checkpoints if step != one])
    places = [world.after / f"checkpoint-{step}" for step in (one, other)]
    places[0].rename(world.after / "x")
    places[1].rename(places[0])
    (world.after / "x").rename(places[1])
    return {}


def line_dropped(world: World, _: Path, draw: random.Random) -> Given:
    """A line of the log left out."""

    def change(entries: Lines) -> None:
        del entries[draw.randrange(1, len(entries) - 1)]

    edit_log(world.after, change)
    return {}


def line_added(world: World, _: Path, draw: random.Random) -> Given:
    """A microbatch added to the last step, with records of another one."""

    def change(entries: Lines) -> None:
        listed = microbatches(entries)
        extra = {**listed[-1], "microbatch": listed[-1]["microbatch"] + 1, "records": draw.choice(listed)["records"]}
        entries.insert(entries.index(listed[-1]) + 1, extra)

    edit_log(world.after, change)
    return {}


def lines_reordered(world: World, _: Path, draw: random.Random) -> Given:
    """The records of two microbatches in each other's place."""

    def change(entries: Lines) -> None:
        listed = microbatches(entries)
        one, other = draw.sample([entry for entry in listed if entry["records"]], 2)
        one["records"], other["records"] = other["records"], one["records"]

    edit_log(world.after, change)
    return {}


def line_edited(world: World, _: Path, draw: random.Random) -> Given:
    """Another learning rate, dropout seed or state in the log."""
    what = draw.choice(("rate", "seed", "weights", "optimizer"))

    def change(entries: Lines) -> None:
        entry = draw.choice([entry for entry in entries if what in entry])
        entry[what] = "0" * 64 if what in ("weights", "optimizer") else entry[what] + 1

    edit_log(world.after, change)
    return {}


def other_records(world: World, _: Path, draw: random.Random) -> Given:
    """A retained record that is shown with one altered character."""
    altered = draw.choice([row for row in world.rows if row not in world.gone])
    text = altered["completion"]
    place = draw.randrange(len(text))
    other = {**altered, "completion": f"{text[:place]}#{text[place + 1 :]}"}
    return {"data": [other if row is altered else row for row in world.rows]}


def other_tokenizer(world: World, _: Path, draw: random.Random) -> Given:
    """Another tokenizer in the log, or another chat template beside the weights."""
    if draw.random() < 0.5:
        edit_log(world.after, lambda entries: entries[0].update(tokenizer=f"{draw.getrandbits(256):064x}"))
    else:
        (world.after / "chat_template.jinja").write_text("{{ messages }}")
        reseal(world.after)
    return {}


def other_configuration(world: World, _: Path, draw: random.Random) -> Given:
    """The weights served under another normalization constant, or an adapter under another scale."""
    path = world.after / "adapter_config.json"
    change = {"lora_alpha": draw.randint(1, 15)}
    if not path.is_file():
        path, change = world.after / "config.json", {"rms_norm_eps": draw.choice((0.1, 0.01, 0.001))}
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    reseal(world.after)
    return {}


def original(world: World, _: Path, __: random.Random) -> Given:
    """The model before the deletion, handed in as deleted."""
    return {"model": world.before}


def another_commitment(world: World, folder: Path, draw: random.Random) -> Given:
    """The commitment to another training, or one from the future."""
    if draw.random() < 0.5:
        assert world.commitment is not None
        content = {**json.loads(world.commitment.read_text()), "created": "2999-01-01T00:00:00+00:00"}
        (folder / "later.json").write_text(json.dumps(content))
        return {"commitment": folder / "later.json"}
    return {"commitment": commit(world.after, folder / "other.json")}


def segments_of_another_run(world: World, folder: Path, draw: random.Random) -> Given:
    """A kept state of a training with another seed, which the log is made to state."""
    options = dataclasses.replace(world.setting.options, seed=world.setting.options.seed + 1)
    rest = [row for row in world.rows if row not in world.gone]
    other = trained(dataclasses.replace(world.setting, options=options), world.base, rest, folder / "other")
    step = draw.choice([step for step in starts(world) if (other / f"checkpoint-{step}").is_dir()])
    shutil.rmtree(world.after / f"checkpoint-{step}")
    shutil.copytree(other / f"checkpoint-{step}", world.after / f"checkpoint-{step}")
    lines = [json.loads(line) for line in (other / LOG_NAME).read_text().splitlines()]
    stated = next(line for line in lines if line.get("checkpoint") == step)

    def change(entries: Lines) -> None:
        entry = next(entry for entry in entries if entry.get("checkpoint") == step)
        entry.update({name: stated[name] for name in ("weights", "optimizer")})

    edit_log(world.after, change)
    reseal(world.after)
    return {}


def stage(world: World, _: Path, draw: random.Random) -> Given:
    """A stage of a model in shards left as it was, edited, scaled otherwise, or served in another's place."""
    assert world.before is not None
    places = [path.parent.relative_to(world.after).as_posix() for path in sorted(world.after.glob(f"shard-*/slice-*/{LOG_NAME}"))]
    same = [
        place for place in places if file_digest(world.before / place / LOG_NAME) == file_digest(world.after / place / LOG_NAME)
    ]
    changed = draw.choice([place for place in places if place not in same])
    kind = draw.choice(("left", "edited", "unaffected edited", "scaled", "swapped"))
    touched = draw.choice(same) if kind == "unaffected edited" and same else changed
    if kind == "left":
        shutil.copytree(world.before / touched, world.after / touched, dirs_exist_ok=True)
    elif kind == "scaled":
        path = world.after / touched / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": draw.randint(1, 15)}))
    elif kind != "swapped":
        flip(_weights(world.after / touched), place=draw.randrange(10**6), bit=draw.randrange(23))
    write_manifest(world.after / touched, "shard", read_json(world.after / touched / MANIFEST)["about"])
    about = json.loads((world.after / ENSEMBLE).read_text())
    names = list(about["adapters"])
    if kind == "swapped":
        names.reverse()
    about["adapters"] = {name: {file: file_digest(world.after / name / file) for file in FILES} for name in names}
    (world.after / ENSEMBLE).write_text(json.dumps(about))
    reseal(world.after)
    return {}
