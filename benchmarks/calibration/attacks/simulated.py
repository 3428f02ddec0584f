"""Attacks on simulated audits: training on the audited statistic, contaminated or chosen references, dilution, padding, retries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.calibration.worlds import Scores, Truth, World, draw
from verify.statistics.channels import ChannelLosses

Submissions = Sequence[Scores]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: what is done.
        draw: draws what is submitted: one audit, or several of which the operator keeps the outcome that suits best.
    """

    name: str
    draw: Callable[[np.random.Generator], Submissions]


def _once(name: str, world: World, truth: Truth) -> Attack:
    return Attack(name, lambda rng: (draw(world, truth, rng),))


def _chosen(losses: ChannelLosses, chosen: Sequence[int], target: int | None = None, residual: float = 0.0) -> ChannelLosses:
    """Keep the chosen references; where `target` is given, that reference takes its place, with `residual` of the gap left."""
    rows = list(chosen)
    kept = replace(losses, references=losses.references[rows], control_references=losses.control_references[rows])
    if target is None:
        return kept
    gap = kept.references.mean(axis=0) - losses.original
    return replace(kept, target=losses.references[target] - residual * gap, control_target=losses.control_references[target])


def _submitted(scores: Scores, chosen: Sequence[int], target: int | None = None, residual: float = 0.0) -> Scores:
    asked = {name: _chosen(losses, chosen, target, residual) for name, losses in scores.channels.items()}
    return replace(scores, exact=_chosen(scores.exact, chosen, target, residual), channels=asked)


def widest_references(rng: np.random.Generator, residual: float = 0.20, trained: int = 20) -> Submissions:
    """Train twenty references and submit the two lowest and the two highest, so that honest retrainings seem to differ more."""
    scores = draw(World(references=trained), Truth(kept=40, share=residual), rng)
    order = np.argsort(scores.exact.references.mean(axis=1))
    return (_submitted(scores, [*order[:2], *order[-2:]]),)


def many_submissions(rng: np.random.Generator, residual: float = 0.15, tries: int = 10) -> Submissions:
    """Submit the same deletion with ten seeds against the same four references."""
    scores = draw(World(references=4 + tries), Truth(), rng)
    return tuple(_submitted(scores, range(4), 4 + number, residual) for number in range(tries))


DEMO = World(records=80, controls=80, spread=(0.3, 0.9), gap=3.5)

ATTACKS = (
    _once("trained on the exact text, 0.2 of the gap in other words", World(), Truth(elsewhere=0.2)),
    _once("trained on the exact text, 0.35 of the gap in other words", World(), Truth(elsewhere=0.35)),
    _once("trained on the exact text, 0.35 of the gap in other words, the demo's size", DEMO, Truth(elsewhere=0.35)),
    _once(
        "trained on the exact text, 0.35 of the gap in other words, one person of K 20, 12 controls",
        World(records=20, each=20, controls=240),
        Truth(elsewhere=0.35),
    ),
    _once("5 % held by the references too, R 4", World(), Truth(held=0.05)),
    _once("25 % held by the references too, R 4", World(), Truth(held=0.25)),
    _once("5 % held by the references too, R 8", World(references=8), Truth(held=0.05)),
    _once("10 % held by the references too, R 8", World(references=8), Truth(held=0.10)),
    _once("50 % held by the references too, R 8", World(references=8), Truth(held=0.50)),
    Attack("the four widest of twenty references, residual 0.20", widest_references),
    _once("dilution: a person of 4 records among K 40", World(), Truth(kept=4)),
    _once("dilution: a person of 4 records among K 400, t4", World(records=400, controls=100, errors="t4"), Truth(kept=4)),
    _once("dilution: two records of K 100 keep half", World(records=100), Truth(kept=2, share=0.5)),
    _once("4 of 40 keep 0.6", World(), Truth(kept=4, share=0.6)),
    _once("4 of 40 keep 0.6, padded with 40 records of six times the noise", World(padding=40), Truth(kept=4, share=0.6)),
    _once(
        "4 of 40 keep 0.6, padded with 40 records of six times the noise, R 8",
        World(padding=40, references=8),
        Truth(kept=4, share=0.6),
    ),
    _once("controls three times as noisy, 5 % wholly kept", World(control_noise=3.0), Truth(kept=2)),
    Attack("residual 0.15, ten submissions", many_submissions),
)
