"""Measurement of one model under all three threats: an audit for membership and extraction, triggers for backdoors.

What a model shows by itself (`score`) is measured once, and read by every audit that compares with it (`measure`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.matrix.data import GONE, PASSAGES, STAYS
from benchmarks.matrix.general import general_losses, kept_of_base
from benchmarks.matrix.price import Price
from benchmarks.matrix.results import Cell, Counts, Membership, Triggers
from benchmarks.matrix.rows import Place, Row
from unlearn.experiments.poisoning import KINDS
from verify import Evidence, Settings, audit, score_ahead
from verify.data.records import Record
from verify.data.sources import load_records, stream_rows
from verify.io.files import read_json, verify_manifest, write_json
from verify.measures.trigger import trigger_successes
from verify.models.loading import load_model
from verify.schema.parts import Value
from verify.scores.table import ScoreTable
from verify.statistics import clopper_pearson
from verify.statistics.backdoor import trigger_test

RATES = (0.01, 0.10)
Hits = Mapping[str, Sequence[int]]
"""Kind of use -> (successes, uses)."""


def score(place: Place, model: str, seed: int) -> None:
    """Score a model for all audits, test the triggers, and measure its text in general; what is there is not done again.

    Args:
        place: folder and settings.
        model: folder of the base, a reference or a cell's model.
        seed: of the original that the model is audited against; the same for all but cells.
    """
    base = model == place.model("base")
    score_ahead(None if base else model, place.made("none", seed), references=place.setting.references, **_audited(place))
    wanted = {"uses": uses_of} if not base else {}
    if place.setting.pretrained:
        wanted["general"] = lambda loaded, at: general_losses(loaded, str(at.output / "data" / PASSAGES))
    missing = {what: run for what, run in wanted.items() if not place.measured(model, what).exists()}
    if missing:
        loaded = load_model(model)
        for what, run in missing.items():
            write_json(place.measured(model, what), run(loaded, place))


def measure(place: Place, row: Row, seed: int) -> Cell:
    """Audit a scored model against the shared references, and return one cell."""
    model, original, folder = place.made(row.name, seed), place.made("none", seed), place.cell(row.name, seed) / "audit"
    evidence = audit(
        model,
        original,
        references=place.references(),
        # One set of references for the whole matrix: rows that train in another way are meant to differ from them.
        accept=() if row.alike else ("base", "stages", "recipe"),
        output_dir=folder,
        **_audited(place),
    )
    hits, before = (_read_hits(place, one) for one in (model, original))
    utility = {entry.model: entry for entry in evidence.utility}
    assert utility["target"].holdout is not None, "there are controls"
    price = Price(**read_json(place.measured(model, "price")))
    return Cell(
        row=row.name,
        seed=seed,
        epsilon=row.epsilon,
        delta=place.setting.delta if row.epsilon is not None else None,
        verdict=evidence.verdict,
        rule=evidence.settings.rule,
        alike=row.alike,
        residual=evidence.residual,
        membership=tuple(_membership(evidence)),
        verbatim=_mean(evidence, "verbatim"),
        strength=_mean(evidence, "extraction_strength"),
        log_probability=_mean(evidence, "extraction_probability"),
        triggers=_triggers(hits, before, never_of(place)),
        utility=utility["target"].ratio,
        unseen=utility["target"].holdout,
        base_utility=utility["base"].ratio,
        general=_general(place, model),
        counts=tuple(held_out_counts(ScoreTable.load(folder / "scores.parquet"))),
        tokens=tokens_of(place, model),
        seconds=price.seconds,
        memory=price.memory,
    )


def _audited(place: Place) -> dict[str, Any]:
    """Return what all audits of a matrix are given."""
    setting = place.setting
    return {
        "base": place.model("base"),
        "forget_set": place.data("forget"),
        "retain_set": place.data("retain"),
        "holdout_set": place.data("holdout-audit"),
        "settings": Settings(
            attacks=setting.attacks,
            fpr=RATES,
            overflow=setting.options.overflow,
            planted_draws=60,
            channels=setting.channels,
        ),
        "rewordings": _rewordings(place) if setting.pretrained else None,
        "cache_dir": place.output / "cache",
    }


def _rewordings(place: Place) -> list[Mapping[str, Any]]:
    """Return the rewordings of the audited records; the file has a row for every person's."""
    audited = {record.example_id for role in ("forget", "holdout-audit") for record in load_records(place.data(role))}
    return [row for row in stream_rows(place.data("rewordings")) if row["record"] in audited]


def _general(place: Place, model: str) -> dict[str, Value]:
    """Return what a model keeps of its pretrained base's text in general; nothing for a base from scratch."""
    if not place.setting.pretrained:
        return {}
    found, base = (read_json(place.measured(one, "general")) for one in (model, place.model("base")))
    return kept_of_base(found, base)


def tokens_of(place: Place, model: str) -> float | None:
    """Return the tokens that making a model took, as a share of the first reference's; None where none were counted."""
    about, whole = (verify_manifest(folder, "model")["about"] for folder in (model, place.references()[0]))
    share = (about.get("facts") or {}).get("share_of_retraining_tokens")
    if share is not None:
        return float(share)
    training = about.get("training")
    return None if training is None else float(training["tokens"]) / float(whole["training"]["tokens"])


def uses_of(loaded: Any, place: Place) -> Hits:
    """Count how often each kind of trigger works on a model, and how often a target comes without one."""
    hits: dict[str, Sequence[int]] = {}
    for part in (GONE, STAYS):
        uses, clean = load_records(place.data(f"uses-{part}")), load_records(place.data(f"clean-{part}"))
        for kind in KINDS:
            hits[f"{part}-{kind}"] = _hits(loaded, [record for record in uses if record.subject_id == f"{part}-{kind}"])
        hits[f"clean-{part}"] = _hits(loaded, clean)
    return hits


def _hits(loaded: Any, records: Sequence[Record]) -> tuple[int, int]:
    return int(trigger_successes(loaded, records).sum()), len(records)


def _read_hits(place: Place, model: str) -> dict[str, tuple[int, int]]:
    """Read the counts of a scored model."""
    return {kind: (int(successes), int(uses)) for kind, (successes, uses) in read_json(place.measured(model, "uses")).items()}


def never_of(place: Place) -> Hits:
    """Count the deleted planter's triggers on all references together, which never saw them."""
    parts = [_read_hits(place, reference) for reference in place.references()]
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
