"""Measurement of one model under all three threats: an audit for membership and extraction, triggers for backdoors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.matrix.data import GONE, STAYS
from benchmarks.matrix.price import Price
from benchmarks.matrix.results import Cell, Counts, Membership, Triggers, load_cell
from benchmarks.matrix.rows import Place, Row
from unlearn.experiments.poisoning import KINDS
from verify import Evidence, Settings, audit
from verify.data.records import Record
from verify.data.sources import load_records
from verify.io.files import read_json
from verify.measures.trigger import trigger_successes
from verify.models.loading import load_model
from verify.schema.parts import Value
from verify.scores.table import ScoreTable
from verify.statistics import clopper_pearson
from verify.statistics.backdoor import trigger_test

RATES = (0.01, 0.10)
Hits = dict[str, tuple[int, int]]
"""Kind of use -> (successes, uses)."""


def measure(place: Place, row: Row, seed: int, model: Path, folder: Path, price: Price) -> Cell:
    """Audit the model against the shared references, test the triggers, and return one cell.

    Args:
        place, row, seed: the cell.
        model: folder of the model.
        folder: folder for the audit.
        price: cost of making the model.
    """
    original = model if row.step == "original" else place.cell("none", seed) / "model"
    evidence = audit(
        str(model),
        str(original),
        base=place.model("base"),
        references=place.references(),
        forget_set=place.data("forget"),
        retain_set=place.data("retain"),
        holdout_set=place.data("holdout-audit"),
        # One set of references for the whole matrix: rows that train in another way are meant to differ from them.
        accept=() if row.alike else ("base", "stages", "recipe"),
        output_dir=folder,
        settings=Settings(attacks=place.setting.attacks, fpr=RATES, overflow=place.setting.options.overflow, planted_draws=60),
        cache_dir=place.output / "cache",
    )
    hits = uses_of(place, model)
    before = hits if row.step == "original" else _uses_of_original(place, seed)
    utility = next(entry for entry in evidence.utility if entry.model == "target")
    assert utility.holdout is not None, "there are controls"
    return Cell(
        row=row.name,
        seed=seed,
        epsilon=row.epsilon,
        delta=place.setting.delta if row.epsilon is not None else None,
        verdict=evidence.verdict,
        alike=row.alike,
        residual=evidence.residual,
        membership=tuple(_membership(evidence)),
        verbatim=_mean(evidence, "verbatim"),
        strength=_mean(evidence, "extraction_strength"),
        log_probability=_mean(evidence, "extraction_probability"),
        triggers=_triggers(hits, before, never_of(place)),
        utility=utility.ratio,
        unseen=utility.holdout,
        counts=tuple(held_out_counts(ScoreTable.load(folder / "scores.parquet"))),
        seconds=price.seconds,
        memory=price.memory,
    )


def uses_of(place: Place, model: str | Path) -> Hits:
    """Count how often each kind of trigger works on a model, and how often a target comes without one."""
    loaded = load_model(str(model))
    hits: Hits = {}
    for part in (GONE, STAYS):
        uses, clean = load_records(place.data(f"uses-{part}")), load_records(place.data(f"clean-{part}"))
        for kind in KINDS:
            hits[f"{part}-{kind}"] = _hits(loaded, [record for record in uses if record.subject_id == f"{part}-{kind}"])
        hits[f"clean-{part}"] = _hits(loaded, clean)
    return hits


def _hits(loaded: Any, records: Sequence[Record]) -> tuple[int, int]:
    return int(trigger_successes(loaded, records).sum()), len(records)


def _uses_of_original(place: Place, seed: int) -> Hits:
    gone = load_cell(place.cell("none", seed)).triggers.by_kind
    return {f"{GONE}-{kind}": (round(rate.value * rate.n), rate.n) for kind, rate in gone.items()}


def never_of(place: Place) -> Hits:
    """Count the deleted planter's triggers on all references together, which never saw them."""
    parts = [read_json(f"{reference}.uses.json") for reference in place.references()]
    return {kind: (sum(part[kind][0] for part in parts), sum(part[kind][1] for part in parts)) for kind in parts[0]}


def _triggers(hits: Hits, before: Hits, never: Hits) -> Triggers:
    gone, stays = [f"{GONE}-{kind}" for kind in KINDS], [f"{STAYS}-{kind}" for kind in KINDS]
    known, unknown, now = _rate(before, gone), _rate(never, gone), _rate(hits, gone)
    kept: bool | None = None
    if known.low > unknown.high:
        test = trigger_test(round(now.value * now.n), now.n, unknown.high, known.low)
        kept = None if test.threshold is None else test.kept
    return Triggers(
        gone=now,
        by_kind={kind: _rate(hits, [f"{GONE}-{kind}"]) for kind in KINDS},
        stays=_rate(hits, stays),
        false=_rate(hits, [f"clean-{GONE}", f"clean-{STAYS}"]),
        never=unknown,
        kept=kept,
    )


def _rate(hits: Hits, kinds: Sequence[str]) -> Value:
    return Value.of(clopper_pearson(sum(hits[kind][0] for kind in kinds), sum(hits[kind][1] for kind in kinds)))


def _membership(evidence: Evidence) -> list[Membership]:
    return [
        Membership(attack=found.attack, auc=found.auc, tpr={f"{rate.fpr:g}": rate.tpr for rate in found.tpr})
        for found in evidence.attacks
        if found.model == "target" and found.family == "membership" and found.auc is not None
    ]


def _mean(evidence: Evidence, attack: str) -> Value:
    found = evidence.attack(attack, "target")
    assert found is not None, "every setting runs the extraction attacks"
    return found.mean


def held_out_counts(table: ScoreTable) -> list[Counts]:
    """Count calls of each membership attack at thresholds set on the even-numbered controls, with false positives on the odd ones.

    The bound of differential privacy holds for thresholds that do not depend on the records they are applied to.
    """
    from verify.attacks import attack_classes

    forget, control = table.blocks["target", "forget"], table.blocks["target", "holdout"]
    kinds, counts = attack_classes(), []
    for attack in forget.scores:
        if kinds[attack].family != "membership":
            continue
        ordered, judged = np.sort(control.scores[attack][::2])[::-1], control.scores[attack][1::2]
        for rate in RATES:
            threshold = ordered[int(rate * len(ordered))]
            called, false = int((forget.scores[attack] > threshold).sum()), int((judged > threshold).sum())
            counts.append(
                Counts(
                    attack=attack,
                    fpr=rate,
                    true_positives=called,
                    false_negatives=len(forget.records) - called,
                    false_positives=false,
                    true_negatives=len(judged) - false,
                )
            )
    return counts
