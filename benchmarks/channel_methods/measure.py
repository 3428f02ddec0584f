"""Measurement of a model in memory: the audit's channels by their own statistics, utility, and the spread of single records."""

import json
from typing import Any

import numpy as np

from benchmarks.channel_methods.world import Place
from unlearn.training.weights import mean_loss, sample
from verify.data.identity import RecordKey
from verify.data.rewording_files import load_rewordings
from verify.data.subjects import subject_groups
from verify.io.files import read_json, write_json
from verify.models.loading import LoadedModel
from verify.probes.base import mean_losses
from verify.schema.settings import Settings
from verify.scores.channels import Channels
from verify.statistics.channels import EXACT_TEXT, ChannelLosses, judge_channels

UTILITY_RECORDS = 200
Measured = dict[str, dict[str, list[float]]]
"""Channel -> set -> mean losses, nats per token."""


def measure(place: Place, loaded: LoadedModel) -> dict[str, Any]:
    """Measure the channels' losses and the mean loss on records to keep."""
    sets = {"forget": place.records("forget"), "holdout": place.records("holdout-audit"), "retain": place.records("retain")}
    asked = Channels(
        sets,  # type: ignore[arg-type]
        Settings(seed=place.seed),
        RecordKey.load(),
        None,
        references=place.sizes.references,
        rewordings=load_rewordings(place.rewordings(), {"forget": sets["forget"], "holdout": sets["holdout"]}),
        learning_rate=place.options.learning_rate,
    )
    found = asked.measure(loaded, "model")
    exact = {role: mean_losses(loaded, sets[role]).tolist() for role in ("forget", "holdout")}
    losses: Measured = {EXACT_TEXT: exact}
    for channel in found["forget"]:
        losses[channel] = {role: found[role][channel].tolist() for role in ("forget", "holdout")}
    kept = mean_loss(loaded, sample(sets["retain"], UTILITY_RECORDS, place.seed))
    return {"losses": losses, "retain": kept, "not_run": dict(asked.not_run)}


def measure_trained(place: Place, name: str) -> None:
    """Measure a trained model and keep what was found, unless that is done."""
    path = place.folder / "measured" / f"{name}.json"
    if not path.exists():
        write_json(path, measure(place, place.load(name)))


def judge(place: Place, target: dict[str, Any]) -> dict[str, Any]:
    """Judge a measurement against the references'."""
    original, *references = (read_json(place.folder / "measured" / f"{name}.json") for name in ("original", *place.references))
    forget, controls = (subject_groups(place.records(role)) for role in ("forget", "holdout-audit"))

    def of(channel: str, model: dict[str, Any], role: str) -> Any:
        return np.array(model["losses"][channel][role], dtype=np.float64)

    channels = {
        name: ChannelLosses(
            of(name, original, "forget"),
            of(name, target, "forget"),
            np.stack([of(name, model, "forget") for model in references]),
            of(name, target, "holdout"),
            of(name, original, "holdout"),
            np.stack([of(name, model, "holdout") for model in references]),
        )
        for name in target["losses"]
        if all(name in model["losses"] for model in (original, *references))
    }
    found = judge_channels(channels, forget, controls)
    exact = channels[EXACT_TEXT]
    level = exact.references.mean(0)
    gap = level - exact.original
    reference = float(np.mean([model["retain"] for model in references]))
    return {
        "channels": {
            test.name: {
                "residual": None if test.residual is None else [test.residual.value, test.residual.low, test.residual.high],
                "valid": test.valid,
                "certifiable": test.certifiable,
                "accused": test.accused,
                "certified": test.certified,
                "gap": test.gap,
            }
            for test in found.tests
        },
        "accused": sum(test.accused for test in found.tests),
        "certified": sum(test.certified for test in found.tests),
        "certifiable": sum(test.certifiable for test in found.tests),
        "valid": found.valid,
        "spread": float(np.sqrt(np.mean((level - exact.target) ** 2) / np.mean(gap**2))),
        "utility": float(np.exp(reference - target["retain"])),
        "not_run": target["not_run"],
    }


def line(name: str, result: dict[str, Any]) -> str:
    """Describe a result in one line: residuals by channel, * accused, + certified."""
    parts = []
    for channel, one in result["channels"].items():
        value = "-" if one["residual"] is None else f"{one['residual'][0]:.2f}"
        parts.append(
            f"{short(channel)} {value}{'*' if one['accused'] else ''}{'+' if one['certified'] else ''}{'' if one['valid'] else '?'}"
        )
    cost = result.get("cost", {})
    return (
        f"{name:22s} u {result['utility']:.3f} sp {result['spread']:.2f} acc {result['accused']} cert {result['certified']}/"
        f"{result['certifiable']} of {result['valid']} | {' '.join(parts)} | {json.dumps(cost)}"
    )


def short(channel: str) -> str:
    """Abbreviate a channel's name."""
    return channel.replace("rewording ", "rw").replace("layer ", "L").replace("exact text", "exact").replace("instruction", "instr")
