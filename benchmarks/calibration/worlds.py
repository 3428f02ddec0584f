"""Simulated audits with subjects, never-trained controls and channels: what the whole rule needs.

Under retraining r, record i has the loss level_i + M_r + e_ri nats per token, where M_r is common to the model and e_ri belongs to
the record under that model; records of one subject may share part of e. The original lies lower by the record's gap g_i.
A channel asks about the same records: the same losses with noise of its own, and a gap that is a share of the exact text's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from verify.statistics.channels import EXACT_TEXT, ChannelLosses

Array = NDArray[np.float64]
Errors = Literal["normal", "t4", "t2.5", "skew"]

CHANNEL_GAPS = {"rewording": 0.8, "instruction": 0.9, "few-shot": 0.7, "layer": 0.5, "int8": 1.0, "relearned": 0.9}
"""Channels of a simulated audit beside the exact text: the share of the gap that each shows."""


@dataclass(frozen=True)
class World:
    """How models and records vary; the defaults are the calibration's.

    Attributes:
        records, controls: K and N, records of `each` to a subject.
        references: R.
        gap: mean g_i, nats per token (coefficient of variation one third).
        spread: limits between which the records' own standard deviations lie, nats per token.
        model_spread: standard deviation of M_r, nats per token.
        errors: distribution of e_ri, scaled to the same variance; "skew" is a centred Gamma(2).
        correlation: share of e's variance that the records of one subject have in common.
        target_noise, control_noise: factors on the standard deviations of the target, and of the controls under every model.
        offset: added to every loss of the target, forget set and controls alike, nats per token (trained shorter, say).
        copies: share of the forget records that repeat the text of another.
        padding: further forget records, whose standard deviation is `padding_noise` times as large.
    """

    records: int = 40
    controls: int = 40
    each: int = 4
    references: int = 4
    gap: float = 2.2
    spread: tuple[float, float] = (0.06, 0.22)
    model_spread: float = 0.04
    errors: Errors = "normal"
    correlation: float = 0.0
    target_noise: float = 1.0
    control_noise: float = 1.0
    offset: float = 0.0
    copies: float = 0.0
    padding: int = 0
    padding_noise: float = 6.0


@dataclass(frozen=True)
class Truth:
    """What the target remembers.

    Attributes:
        kept: number of forget records of which it remembers `share` of the gap; the first, so whole subjects.
        share: of their gap.
        hidden: whether the others are over-forgotten just enough to make the mean residual zero.
        elsewhere: share of the gap that it remembers on every channel but the exact text, int8 and few-shot.
        held: share of the forget records that original, target and references alike were trained on.
    """

    kept: int = 0
    share: float = 1.0
    hidden: bool = False
    elsewhere: float = 0.0
    held: float = 0.0


@dataclass(frozen=True, eq=False)
class Scores:
    """One audit's losses, nats per token: exact text, controls and channels.

    Attributes:
        exact: the audit's own pass.
        channels: every channel, the exact text among them.
        base: forget records under the base model [K]. control_base: controls [N].
        subjects, control_subjects: whom the records are about.
        texts: equal where the text is.
    """

    exact: ChannelLosses
    base: Array
    control_base: Array
    subjects: tuple[str, ...]
    control_subjects: tuple[str, ...]
    texts: tuple[int, ...]
    channels: Mapping[str, ChannelLosses] = field(default_factory=dict)


def draw(world: World, truth: Truth, rng: np.random.Generator, channels: bool = True) -> Scores:
    """Draw one audit."""
    count = world.records + world.padding
    total = count + world.controls
    texts = np.arange(count)
    repeated = round(world.copies * count)
    texts[count - repeated :] = texts[:repeated]
    same = np.concatenate([texts, np.arange(count, total)])
    level, spread = rng.gamma(9.0, 1 / 3, total), rng.uniform(*world.spread, total)
    spread[world.records : count] *= world.padding_noise
    spread[count:] *= world.control_noise
    gaps = world.gap * rng.gamma(9.0, 1 / 9, count)
    level, spread, gaps = level[same], spread[same], gaps[texts]
    subject = np.concatenate([np.arange(count) // world.each, count + np.arange(world.controls) // world.each])

    def model(noise: float = 1.0) -> Array:
        own = spread * _errors(world, subject, rng)
        return np.asarray(level + world.model_spread * rng.standard_normal() + noise * own[same])

    original, target = model(), model(world.target_noise) + world.offset
    references = np.stack([model() for _ in range(world.references)])
    kept = np.zeros(count)
    kept[: truth.kept] = truth.share
    if truth.hidden and 0 < truth.kept < count:
        kept[truth.kept :] = -float((kept * gaps).sum() / gaps[truth.kept :].sum())
    held = np.where(np.arange(count) < round(truth.held * count), 1.0, 0.0)
    untouched = (original[:count].copy(), target[:count].copy(), references[:, :count].copy())
    original[:count] -= gaps
    target[:count] -= (kept + held) * gaps
    references[:, :count] -= held * gaps
    base = level + 0.1 * rng.standard_normal(total)
    exact = _split(original, target, references, count)
    asked = {EXACT_TEXT: exact}
    if channels:
        controls = (original[count:], target[count:], references[:, count:])
        for name, share in CHANNEL_GAPS.items():
            left = kept + held + (0.0 if name in ("int8", "few-shot") else truth.elsewhere)
            asked[name] = _asked(untouched, controls, spread, gaps * share, (left, held), rng)
    names = [f"{'person' if index < count else 'control'} {number}" for index, number in enumerate(subject)]
    return Scores(exact, base[:count], base[count:], tuple(names[:count]), tuple(names[count:]), tuple(texts.tolist()), asked)


def _errors(world: World, subject: NDArray[np.intp], rng: np.random.Generator) -> Array:
    """Draw errors of variance 1, correlated within subjects."""
    size = len(subject)
    drawn: dict[Errors, Callable[[], Array]] = {
        "normal": lambda: rng.standard_normal(size),
        "t4": lambda: rng.standard_t(4, size) / np.sqrt(2.0),
        "t2.5": lambda: rng.standard_t(2.5, size) / np.sqrt(5.0),
        "skew": lambda: rng.gamma(2.0, 1 / np.sqrt(2.0), size) - np.sqrt(2.0),
    }
    own = drawn[world.errors]()
    shared = rng.standard_normal(int(subject.max()) + 1)[subject]
    return np.asarray(np.sqrt(world.correlation) * shared + np.sqrt(1 - world.correlation) * own)


def _split(original: Array, target: Array, references: Array, count: int) -> ChannelLosses:
    return ChannelLosses(
        original=original[:count],
        target=target[:count],
        references=references[:, :count],
        control_target=target[count:],
        control_original=original[count:],
        control_references=references[:, count:],
    )


def _asked(
    untouched: tuple[Array, Array, Array],
    controls: tuple[Array, Array, Array],
    spread: Array,
    gaps: Array,
    known: tuple[Array, Array],
    rng: np.random.Generator,
) -> ChannelLosses:
    """Draw a channel: the losses without any gap, half as much noise of its own, less the gaps that target and references know."""
    count = len(gaps)

    def noisy(losses: Array, own: Array) -> Array:
        return np.asarray(losses + 0.5 * own * rng.standard_normal(losses.shape))

    forget, other = spread[:count], spread[count:]
    original, target, references = (noisy(losses, forget) for losses in untouched)
    control_original, control_target, control_references = (noisy(losses, other) for losses in controls)
    left, held = known
    return ChannelLosses(
        original=original - gaps,
        target=target - left * gaps,
        references=references - held * gaps,
        control_target=control_target,
        control_original=control_original,
        control_references=control_references,
    )
