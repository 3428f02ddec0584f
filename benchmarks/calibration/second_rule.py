"""Rates of rule 2 with all its tests, beside rule 1's: honest targets, remembered parts, and attacks on the verdict.

Of several submissions the operator keeps the one that suits: an attack counts as accused where all of them are, as certified where
any is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.calibration.attacks import ATTACKS
from benchmarks.calibration.conditions import HONEST, REMEMBERED
from benchmarks.calibration.rules import rule_one, rule_two
from benchmarks.calibration.worlds import Scores, Truth, World, draw

HONEST_PART, REMEMBERED_PART, ATTACK_PART = "Honest retraining", "Remembered", "Attacks on the verdict"
TESTS = ("A1", "A2", "A3", "channels")
GATES = ("noise of the target", "innocent references", "memorized records")
COLUMNS = ("accused by rule 1", "certified by rule 1", "accused", "certified", *TESTS, *GATES)
Submissions = Sequence[Scores]
Submit = Callable[[np.random.Generator], Submissions]


@dataclass(frozen=True)
class SecondCell:
    """Counts over the audits of one case.

    Attributes:
        part: honest retrainings, remembered parts, or attacks.
        name: of the case.
        audits: how many were drawn.
        counts: how many were accused or certified, by either rule; which tests accused, and which gates failed (`COLUMNS`).
    """

    part: str
    name: str
    audits: int
    counts: Mapping[str, int]


def simulate_second(audits: int, known: Callable[[str], dict[str, object] | None]) -> Iterator[tuple[str, SecondCell]]:
    """Yield every cell with its name; cells that `known` returns are not simulated again."""
    for number, (part, name, submit, factor) in enumerate(cases()):
        count = round(factor * audits)
        key = f"{part}: {name}, {count} audits"
        found = known(key)
        if found is not None:
            yield key, SecondCell(**found)  # type: ignore[arg-type]
        else:
            yield key, SecondCell(part, name, count, _counted(submit, count, np.random.default_rng([17, number])))


def cases() -> Iterator[tuple[str, str, Submit, float]]:
    """Yield part, name, what is submitted, and how many audits it gets, relative to the others."""

    def once(world: World, truth: Truth) -> Submit:
        return partial(_submit_one, world, truth)

    for name, world in HONEST.items():
        yield HONEST_PART, name, once(world, Truth()), 1.0 if world.records > 100 else 2.0
    for name, (world, truth) in REMEMBERED.items():
        yield REMEMBERED_PART, name, once(world, truth), 1.0
    for attack in ATTACKS:
        yield ATTACK_PART, attack.name, attack.draw, 0.5 if "ten" in attack.name else 1.0


def _submit_one(world: World, truth: Truth, rng: np.random.Generator) -> Submissions:
    return (draw(world, truth, rng),)


def _counted(submit: Submit, audits: int, rng: np.random.Generator) -> dict[str, int]:
    counts = dict.fromkeys(COLUMNS, 0)
    for _ in range(audits):
        submitted = submit(rng)
        old, new = [rule_one(scores) for scores in submitted], [rule_two(scores) for scores in submitted]
        counts["accused by rule 1"] += all(accused for accused, _ in old)
        counts["certified by rule 1"] += any(certified for _, certified in old)
        counts["accused"] += all(outcome.accused for outcome in new)
        counts["certified"] += any(outcome.certified for outcome in new)
        for test in TESTS:
            counts[test] += any(test in outcome.tests for outcome in new)
        for gate in GATES:
            counts[gate] += any(gate in outcome.gates for outcome in new)
    return counts
