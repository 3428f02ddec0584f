"""Table of a contest by channel: what every way of asking shows, and how many channels of the audit can say anything.

A channel can accuse only where the same test accuses the original. Elsewhere its residual is printed in italics: an estimate,
without a verdict.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from verify.statistics.contrasts import MIN_GAP

LAYERS = "valid layers"
CHANNELS = ("exact text", "rewording 1", "instruction", "few-shot", "no prompt", LAYERS, "int8", "int4", "relearned")
LEGEND = (
    "Residual fraction on each channel, against never-trained controls, mean over the seeds in which the channel is valid; with "
    "one such seed ± half its 90 % interval. In brackets the seeds in which it accuses, of these. Over the valid layers: mean, "
    "lowest and highest residual, and how many of them accuse. Above 1: further from the retrainings than the original is. *In "
    f"italics*: valid in no seed although the original knows {MIN_GAP:g} nats or more there, so an estimate that can neither "
    "accuse nor certify. A dash: not measured, no valid layer, or the original shows too little there."
)


def channel_row(name: str, found: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Format the residuals of a method on every channel, over its seeds."""
    measured = [entry["channels"] for entry in found if "channels" in entry]
    return (name, *(_on_layers(measured) if column == LAYERS else _on_channel(measured, column) for column in CHANNELS))


def validity(entries: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """Say by seed how many channels were measured, and why some can say nothing; they are the same for all entries of a seed."""
    channels = {seed: next((one["channels"] for one in found if one.get("channels")), None) for seed, found in entries.items()}
    return "\n\n".join(f"Seed {seed}: {_validity(own)}" for seed, own in channels.items() if own) or "No channel was measured."


def _validity(channels: Sequence[Mapping[str, Any]]) -> str:
    valid = [one["name"] for one in channels if one["valid"]]
    little = sum(not one["valid"] and _gap(one) < MIN_GAP for one in channels)
    named = f" ({', '.join(valid)})" if valid else ""
    return (
        f"{len(channels)} channels measured, {len(valid)} of them valid{named}. On {little} of the others the original knows less "
        f"than {MIN_GAP:g} nats a token more than retrainings; on {len(channels) - len(valid) - little} it knows enough, but the "
        "test of the channels does not find it there: with very few people to forget it takes people who are alike."
    )


def _gap(channel: Mapping[str, Any]) -> float:
    return -np.inf if channel["gap"] is None else float(channel["gap"])


def _on_channel(measured: Sequence[Sequence[Mapping[str, Any]]], column: str) -> str:
    named = [one for channels in measured for one in channels if one["name"] == column and one["residual"]]
    if valid := [one for one in named if one["valid"]]:
        return f"{_mean(valid)} ({sum(one['accused'] for one in valid)}/{len(valid)})"
    large = [one for one in named if _gap(one) >= MIN_GAP]
    return f"*{_mean(large)}*" if large else "-"


def _on_layers(measured: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    valid = [one for channels in measured for one in channels if one["valid"] and one["name"].startswith("layer ")]
    if not valid:
        return "-"
    values = [one["residual"][0] for one in valid]
    spread = f"{np.mean(values):.2f} [{min(values):.2f}, {max(values):.2f}]"
    return f"{spread} ({sum(one['accused'] for one in valid)}/{len(valid)})"


def _mean(found: Sequence[Mapping[str, Any]]) -> str:
    value, low, high = np.mean([one["residual"] for one in found], axis=0)
    return f"{value:.2f} ± {(high - low) / 2:.2f}" if len(found) == 1 else f"{value:.2f}"
